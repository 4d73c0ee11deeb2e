"""The singular value decomposition of a low-rank product U·V without the product, through a small core.

With U = Q·R and Vᵀ = P·S by QR, U·V = Q·(R·Sᵀ)·Pᵀ: the singular values of the core R·Sᵀ, of the stacked rank on each
side, are those of U·V, and Q and P carry its singular vectors over. FLoRIST (arXiv 2506.09199) works this way, and
FlexLoRA (arXiv 2402.11505) comes to the same factors from the dense sum.
"""

from dataclasses import dataclass

import torch

from fedtune.aggregation.stack import Factors


@dataclass(frozen=True, slots=True)
class Directions:
    """The singular directions of a matrix (out, in), those of the largest values first, in double precision."""

    left: torch.Tensor
    """(out, p), orthonormal columns."""
    values: torch.Tensor
    """(p,), descending: all of them, so that ‖ΔW‖² is the sum of their squares."""
    right: torch.Tensor
    """(p, in), orthonormal rows, the largest entry of each positive: the signs do not depend on the algorithm."""

    def rank(self) -> int:
        """How many values stand out from the rounding errors of double precision."""
        if not self.values.numel():
            return 0
        noise = self.values[0] * max(self.left.shape[0], self.right.shape[1]) * torch.finfo(torch.float64).eps
        return int((self.values > noise).sum())

    def leading(self, count: int) -> Factors:
        """The best approximation of rank `count` (Eckart and Young): (left · values, right)."""
        return self.left[:, :count] * self.values[:count], self.right[:count]


def directions(factors: Factors) -> Directions:
    """The singular directions of U·V; the work is of order (out + in)·q² + q³ for an inner dimension q."""
    u, v = factors
    q, r = _reduced(u)
    p, s = _reduced(v.T)
    left, values, right = torch.linalg.svd(r @ s.T, full_matrices=False)
    left = left if q is None else q @ left
    right = right if p is None else right @ p.T
    sign = _signs(right)
    return Directions(left * sign, values, right * sign[:, None])


def _reduced(tall: torch.Tensor) -> tuple[torch.Tensor | None, torch.Tensor]:
    """QR of a tall matrix; (None, the matrix) where it is not tall, for then it is as small as its core."""
    if tall.shape[0] <= tall.shape[1]:
        return None, tall
    q, r = torch.linalg.qr(tall)
    return q, r


def _signs(rows: torch.Tensor) -> torch.Tensor:
    """±1 for each row: the sign of its largest entry in magnitude."""
    largest = rows.gather(1, rows.abs().argmax(dim=1, keepdim=True)).squeeze(1)
    return torch.where(largest < 0, -1.0, 1.0).to(rows.dtype)
