"""The singular value decomposition of a low-rank product U·V without the product, through a small core.

With U = Q·R and Vᵀ = P·S by QR, U·V = Q·(R·Sᵀ)·Pᵀ: the singular values of the core R·Sᵀ, of the stacked rank on each
side, are those of U·V, and Q and P carry its singular vectors over. FLoRIST (arXiv 2506.09199) works this way, and
FlexLoRA (arXiv 2402.11505) comes to the same factors from the dense sum. Q and P stay Householder reflections, which
are applied to the few vectors that are asked for.
"""

from dataclasses import dataclass

import torch

from fedtune.aggregation.stack import Factors


@dataclass(frozen=True, slots=True)
class Side:
    """A tall matrix (n, q) as an orthonormal basis (n, k) times a small matrix (k, q), k = min(n, q)."""

    rows: int
    """n."""
    small: torch.Tensor
    """(k, q)."""
    reflections: tuple[torch.Tensor, torch.Tensor] | None
    """What LAPACK's geqrf leaves below R, and its τ; None where n ≤ q, for then the basis is the identity."""

    @classmethod
    def of(cls, tall: torch.Tensor) -> "Side":
        """Split a matrix; one that is not tall is as small as its core already."""
        rows, columns = tall.shape
        if rows <= columns:
            return cls(rows, tall, None)
        packed, tau = torch.geqrf(tall)
        return cls(rows, packed[:columns].triu(), (packed, tau))

    def carry(self, vectors: torch.Tensor) -> torch.Tensor:
        """The vectors (k, p) in the basis, (n, p)."""
        if self.reflections is None:
            return vectors
        padded = vectors.new_zeros(self.rows, vectors.shape[1])
        padded[: vectors.shape[0]] = vectors
        return torch.ormqr(*self.reflections, padded)


@dataclass(frozen=True, slots=True)
class Directions:
    """The singular directions of a matrix (out, in), those of the largest values first, in double precision."""

    values: torch.Tensor
    """Descending: all of them, so that ‖ΔW‖² is the sum of their squares."""
    left: torch.Tensor
    """The core's left vectors, as columns."""
    right: torch.Tensor
    """The core's right vectors, as columns."""
    sides: tuple[Side, Side]

    def rank(self) -> int:
        """How many values stand out from the rounding errors of double precision."""
        noise = self.values[0] * max(side.rows for side in self.sides) * torch.finfo(torch.float64).eps
        return int((self.values > noise).sum())

    def leading(self, count: int) -> Factors:
        """The best approximation of rank `count` (Eckart and Young): (left · values, right) of p = `count` at most.

        (out, p) and (p, in); the rows of the latter are orthonormal, and the largest entry of each is positive, so
        that the signs do not depend on the algorithm.
        """
        left = self.sides[0].carry(self.left[:, :count] * self.values[:count])
        right = self.sides[1].carry(self.right[:, :count])
        sign = _signs(right)
        return left * sign, (right * sign).T


def directions(factors: Factors) -> Directions:
    """The singular directions of U·V; the work is of order (out + in)·q² + q³ for an inner dimension q."""
    u, v = factors
    sides = Side.of(u), Side.of(v.T)
    left, values, right = torch.linalg.svd(sides[0].small @ sides[1].small.T, full_matrices=False)
    return Directions(values, left, right.T, sides)


def _signs(columns: torch.Tensor) -> torch.Tensor:
    """±1 for each column: the sign of its largest entry in magnitude."""
    largest = columns.gather(0, columns.abs().argmax(dim=0, keepdim=True)).squeeze(0)
    return torch.where(largest < 0, -1.0, 1.0).to(columns.dtype)
