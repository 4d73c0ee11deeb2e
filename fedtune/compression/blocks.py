"""Blocks of numbers that share one scale; no block crosses from one tensor into the next."""

from dataclasses import dataclass

import numpy as np
import torch

from fedtune.compression.vector import Layout


@dataclass(frozen=True, slots=True)
class Blocks:
    """The blocks of a layout, of `length` numbers each; the last of a tensor may be shorter."""

    layout: Layout
    length: int

    @property
    def count(self) -> int:
        """How many blocks there are, and so scales."""
        return sum(-(-size // self.length) for size in self.layout.sizes)

    def largest(self, vector: torch.Tensor) -> torch.Tensor:
        """The largest |x| of each block of a vector (d,)."""
        if not self.count:
            return torch.zeros(0)
        return torch.from_numpy(np.maximum.reduceat(vector.abs().numpy(), self._starts()))

    def spread(self, scales: torch.Tensor) -> torch.Tensor:
        """For each number of the vector its block's scale, (d,)."""
        lengths = np.diff(self._starts(), append=self.layout.size)
        return scales.repeat_interleave(torch.from_numpy(lengths), output_size=self.layout.size)

    def _starts(self) -> np.ndarray[tuple[int], np.dtype[np.int64]]:
        ends = np.cumsum(self.layout.sizes, dtype=np.int64)
        pieces = [np.arange(end - size, end, self.length) for end, size in zip(ends, self.layout.sizes, strict=True)]
        return np.concatenate([np.zeros(0, np.int64), *pieces])
