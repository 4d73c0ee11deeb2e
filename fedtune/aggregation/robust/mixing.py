"""Nearest-neighbour mixing: before a rule, each update becomes the mean of those nearest to it (arXiv 2302.01772)."""

import torch

from fedtune.aggregation.robust.columns import combine, squared_distances


def mix_neighbours(matrix: torch.Tensor, f: int) -> torch.Tensor:
    """Each row as the mean of the K − f rows nearest to it, itself among them; (K, d) in the matrix's dtype.

    It brings rows whose data differ closer together, which is what rules need. Of rows at the same distance the first
    are taken. `f` < K.
    """
    rows = len(matrix)
    nearest = squared_distances(matrix).fill_diagonal_(-1).argsort(dim=1, stable=True)[:, : rows - f]
    weights = torch.zeros(rows, rows, dtype=torch.float64).scatter_(1, nearest, 1 / (rows - f))
    return combine(weights, matrix).to(matrix.dtype)
