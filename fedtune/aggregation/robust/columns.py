"""Arithmetic on a round's matrix (K, d) in double precision, a block of columns at a time.

The matrix stays in the fp32 of the updates: what is worked on in float64 is K·16,384 numbers, whatever d is.
"""

from collections.abc import Callable, Iterator

import torch

COLUMNS = 1 << 14


def blocks(columns: int) -> Iterator[slice]:
    """Slices that cover the columns."""
    return (slice(start, min(start + COLUMNS, columns)) for start in range(0, columns, COLUMNS))


def by_columns(matrix: torch.Tensor, work: Callable[[torch.Tensor], torch.Tensor]) -> torch.Tensor:
    """`work` on each float64 block (K, w), joined along the last dimension: for what treats columns alike."""
    return torch.cat([work(matrix[:, part].double()) for part in blocks(matrix.shape[1])], dim=-1)


def combine(weights: torch.Tensor, matrix: torch.Tensor) -> torch.Tensor:
    """`weights` (K,) or (m, K) times the matrix: float64, (d,) or (m, d)."""
    return by_columns(matrix, lambda block: weights @ block)


def squared_distances(matrix: torch.Tensor) -> torch.Tensor:
    """‖xᵢ − xⱼ‖², (K, K) float64: from the differences, for ‖x‖² + ‖y‖² − 2x·y would cancel beside a huge row."""
    total = torch.zeros(len(matrix), len(matrix), dtype=torch.float64)
    for part in blocks(matrix.shape[1]):
        block = matrix[:, part].double()
        total += torch.cdist(block, block, compute_mode="donot_use_mm_for_euclid_dist").square()
    return total


def distances_from(point: torch.Tensor, matrix: torch.Tensor) -> torch.Tensor:
    """‖xᵢ − point‖, (K,) float64."""
    total = torch.zeros(len(matrix), dtype=torch.float64)
    for part in blocks(matrix.shape[1]):
        total += (matrix[:, part].double() - point[part]).square().sum(dim=1)
    return total.sqrt()


def middle(values: torch.Tensor) -> torch.Tensor:
    """The median along the last dimension; of an even number of values the mean of the middle two."""
    ordered, count = values.sort(dim=-1).values, values.shape[-1]
    return (ordered[..., (count - 1) // 2] + ordered[..., count // 2]) / 2
