"""What is kept of rows: a few tensors for each, under a budget of memory, the least recently used ones out first."""

from collections import OrderedDict
from collections.abc import Hashable, Iterator, Sequence
from dataclasses import dataclass

import torch

from fedtune.cohort.spill import Spill

Kept = tuple[torch.Tensor, ...]


@dataclass(slots=True)
class Counts:
    """How often something was found, and where."""

    memory: int = 0
    disk: int = 0
    missing: int = 0


class RowCache:
    """Tensors by row, in memory up to `room_bytes`; what falls out goes to `spill`, or is forgotten.

    Guarantees: what is found is bit for bit what was put there; a damaged file counts as missing. One thread at a time.
    """

    def __init__(self, room_bytes: int, spill: Spill | None = None) -> None:
        self.counts = Counts()
        self._room, self._spill = room_bytes, spill
        self._kept: OrderedDict[Hashable, Kept] = OrderedDict()
        self._bytes = 0

    def __len__(self) -> int:
        return len(self._kept)

    @property
    def bytes(self) -> int:
        """How much memory is taken now."""
        return self._bytes

    def get(self, key: Hashable) -> Kept | None:
        """What was put there, now the most recently used; None where it is gone, or never was."""
        if (kept := self._kept.get(key)) is not None:
            self._kept.move_to_end(key)
            self.counts.memory += 1
            return kept
        if self._spill is not None and (read := self._spill.read(key)) is not None:
            self.counts.disk += 1
            self._take(key, read)
            return read
        self.counts.missing += 1
        return None

    def put(self, key: Hashable, tensors: Sequence[torch.Tensor]) -> None:
        """Keep tensors, which nobody may change afterwards; they own their memory and need no gradient."""
        self._take(key, tuple(tensors))

    def close(self) -> None:
        """Forget everything; files are removed."""
        self._kept.clear()
        self._bytes = 0
        if self._spill is not None:
            self._spill.close()

    def _take(self, key: Hashable, tensors: Kept) -> None:
        if (before := self._kept.pop(key, None)) is not None:
            self._bytes -= _size(before)
        self._kept[key] = tensors
        self._bytes += _size(tensors)
        for old, dropped in self._too_many():
            if self._spill is not None:
                self._spill.write(old, dropped)

    def _too_many(self) -> Iterator[tuple[Hashable, Kept]]:
        while self._bytes > self._room and self._kept:
            key, tensors = self._kept.popitem(last=False)
            self._bytes -= _size(tensors)
            yield key, tensors


def _size(tensors: Sequence[torch.Tensor]) -> int:
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)
