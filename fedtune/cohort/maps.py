"""A projection as the matrices that it is made of, so that it can be applied head by head, and backwards.

Shape suffixes: K = clients, R = rows (one vector of each), H = heads, D = width of a head, N = in features,
M = H · D = out features, Q = inner dimension.
"""

from dataclasses import dataclass
from functools import reduce

import torch
from torch.nn.functional import linear

from fedtune.cohort.each import each_linear
from fedtune.cohort.layout import Spans

Path = tuple[torch.Tensor, ...]
"""Matrices one after the other from the input on, each (out, in) for all clients or (K, out, in), one a client."""


@dataclass(frozen=True, eq=False)
class Map:
    """y = Σ over paths of Fₙ·…·F₁·x + bias."""

    paths: tuple[Path, ...]
    bias: torch.Tensor | None
    """(M,)."""

    def heads(self, x_RHN: torch.Tensor, spans: Spans) -> torch.Tensor:
        """(R, H, D): each head's part of the output, of that head's own vector; `spans` are the rows of each client."""
        y_RHD = reduce(torch.add, [self._along(path, x_RHN, spans) for path in self.paths])
        return y_RHD if self.bias is None else y_RHD + self.bias.view(y_RHD.shape[1:])

    def back(self, y_RHD: torch.Tensor, spans: Spans) -> torch.Tensor:
        """(R, H, N): Fᵀ·y of each head's part alone, without the bias."""
        return reduce(torch.add, [self._against(path, y_RHD, spans) for path in self.paths])

    def _along(self, path: Path, x_RHN: torch.Tensor, spans: Spans) -> torch.Tensor:
        for matrix in path[:-1]:
            x_RHN = _every(x_RHN, matrix, spans)
        return _by_head(x_RHN, _heads_of(path[-1], x_RHN.shape[1]).mT, spans)

    def _against(self, path: Path, y_RHD: torch.Tensor, spans: Spans) -> torch.Tensor:
        z_RHQ = _by_head(y_RHD, _heads_of(path[-1], y_RHD.shape[1]), spans)
        for matrix in reversed(path[:-1]):
            z_RHQ = _every(z_RHQ, matrix.mT, spans)
        return z_RHQ


def _heads_of(matrix: torch.Tensor, heads: int) -> torch.Tensor:
    """(…, H, D, Q) of (…, M, Q)."""
    return matrix.reshape(*matrix.shape[:-2], heads, -1, matrix.shape[-1])


def _every(x_RHN: torch.Tensor, matrix: torch.Tensor, spans: Spans) -> torch.Tensor:
    """F·x for every head alike, (R, H, Q)."""
    if matrix.ndim == 2:
        return linear(x_RHN, matrix)
    rows, heads, _ = x_RHN.shape
    return each_linear(x_RHN.flatten(0, 1), matrix, tuple(heads * span for span in spans)).view(rows, heads, -1)


def _by_head(x_RHD: torch.Tensor, matrices: torch.Tensor, spans: Spans) -> torch.Tensor:
    """x·Fₕ, (R, H, Q), with another matrix for each head: (H, D, Q), or (K, H, D, Q)."""
    if matrices.ndim == 3:
        return torch.bmm(x_RHD.transpose(0, 1), matrices).transpose(0, 1)
    if len(set(spans)) > 1:  # every row with a copy of its client's
        counts = torch.tensor(spans, device=x_RHD.device)
        matrices, spans = matrices.repeat_interleave(counts, dim=0, output_size=len(x_RHD)), (1,) * len(x_RHD)
    by_client_KHSD = x_RHD.reshape(len(spans), -1, *x_RHD.shape[1:]).transpose(1, 2)
    return torch.matmul(by_client_KHSD, matrices).transpose(1, 2).flatten(0, 1)
