"""Rows of different lengths in one flat array: ten thousand sentences take about a megabyte."""

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray

Ints = NDArray[np.int64]


class Ragged:
    """Immutable rows of token ids: int32 values end to end, and where each row starts."""

    def __init__(self, rows: Sequence[Sequence[int]]) -> None:
        self.lengths: Ints = np.fromiter((len(row) for row in rows), dtype=np.int64, count=len(rows))
        self._starts = np.concatenate([[0], np.cumsum(self.lengths)])
        self._values = np.fromiter(
            (value for row in rows for value in row), dtype=np.int32, count=int(self._starts[-1])
        )

    def __len__(self) -> int:
        return len(self.lengths)

    def row(self, index: int) -> NDArray[np.int32]:
        """The ids of one row, a view."""
        return self._values[self._starts[index] : self._starts[index + 1]]

    def padded(self, rows: Ints, fill: int) -> tuple[torch.Tensor, torch.Tensor]:
        """`rows` filled up on the right to the longest of them, and the mask of what is real: (N, T) int64 each."""
        longest = int(self.lengths[rows].max(initial=1))
        ids_NT = np.full((len(rows), longest), fill, dtype=np.int64)
        for position, index in enumerate(rows):
            ids_NT[position, : self.lengths[index]] = self.row(int(index))
        mask_NT = np.arange(longest)[None, :] < self.lengths[rows][:, None]
        return torch.from_numpy(ids_NT), torch.from_numpy(mask_NT.astype(np.int64))
