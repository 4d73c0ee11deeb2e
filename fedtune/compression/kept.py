"""Which numbers of an update a sparsifying stage keeps: exactly so many, whatever the ties."""

from fractions import Fraction

import numpy as np
import torch

from fedtune.compression.vector import Layout
from fedtune.recipe.compression import CompressionSection


def budget(size: int, density: float) -> int:
    """⌊density · size⌋, but at least one of any; the density as it is written, so that 29 % of 100 are 29."""
    return max(int(Fraction(str(density)) * size), min(size, 1))


def cuts(layout: Layout, section: CompressionSection) -> list[int]:
    """The lengths of the pieces of which a share is kept each: the whole vector, or its tensors."""
    return layout.sizes or [0] if section.threshold == "tensor" else [layout.size]


def budgets(layout: Layout, section: CompressionSection) -> list[int]:
    """How many numbers are kept of each piece."""
    return [budget(size, section.density) for size in cuts(layout, section)]


def kept(keys: torch.Tensor, layout: Layout, section: CompressionSection) -> torch.Tensor:
    """The mask (d,), bool, of the largest of the int32 `keys` (d,): in each piece exactly its budget."""
    pieces = torch.split(keys, cuts(layout, section))
    return torch.cat([_largest(piece, budget(len(piece), section.density)) for piece in pieces])


def magnitudes(vector: torch.Tensor) -> torch.Tensor:
    """Keys (d,), int32, in the order of |x|: the bits of an fp32 magnitude grow with it, and NaN is above infinity."""
    return vector.abs().view(torch.int32)


def _largest(keys: torch.Tensor, count: int) -> torch.Tensor:
    """The `count` largest; of equal ones the first. By partition, not by sorting: the time is linear in d."""
    if count == len(keys):
        return torch.ones(count, dtype=torch.bool)
    values = keys.numpy()
    least = np.partition(values, len(values) - count)[len(values) - count]
    mask = values > least
    mask[np.flatnonzero(values == least)[: count - int(mask.sum())]] = True
    return torch.from_numpy(mask)
