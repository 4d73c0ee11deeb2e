"""What is kept of rows: a few tensors for each, under a budget of memory; what is in stays in."""

from collections import OrderedDict
from collections.abc import Hashable, Sequence
from dataclasses import dataclass

import torch

from fedtune.cohort.spill import Spill

Kept = tuple[torch.Tensor, ...]
PASSING_BYTES = 64 * 2**20
"""Memory beside the room for what came last and found none: rows are computed with their neighbours, whose turn comes
soon."""


@dataclass(slots=True)
class Counts:
    """How often something was found, and where."""

    memory: int = 0
    disk: int = 0
    missing: int = 0


class RowCache:
    """Tensors by row, in memory up to `room_bytes`; what has no room there goes to `spill`, or is not kept.

    Rows come round in cycles, where the least recently used one is the next to be asked for: so a newcomer takes
    nobody's place. With room for half of the rows half of them are found, each time. What was kept of another kind
    (`begin`) makes room first. What found no room can still be found until `PASSING_BYTES` more have come.

    Guarantees: what is found is bit for bit what was put there; a damaged record counts as missing. One thread at
    a time.
    """

    def __init__(self, room_bytes: int, spill: Spill | None = None) -> None:
        self.counts = Counts()
        self._passing = _Passing(PASSING_BYTES)
        self._room, self._spill = room_bytes, spill
        self._kind: Hashable = None
        self._kept: dict[Hashable, dict[Hashable, Kept]] = {}
        self._spilled: set[Hashable] = set()
        self._bytes = 0

    def __len__(self) -> int:
        return sum(map(len, self._kept.values()))

    @property
    def bytes(self) -> int:
        """How much memory is taken now."""
        return self._bytes

    def begin(self, kind: Hashable) -> None:
        """Say of which kind is what is put and asked for from here on; what is of another is not found."""
        if kind != self._kind:
            self._passing.clear()
        self._kind = kind

    def get(self, key: Hashable) -> Kept | None:
        """What was put there; None where it was not kept, or never was."""
        if (kept := self._kept.get(self._kind, {}).get(key) or self._passing.get(key)) is not None:
            self.counts.memory += 1
            return kept
        if self._spill is not None and (read := self._spill.read((self._kind, key))) is not None:
            self.counts.disk += 1
            return read
        self.counts.missing += 1
        return None

    def put(self, key: Hashable, tensors: Sequence[torch.Tensor]) -> None:
        """Keep tensors, if there is room; nobody may change them afterwards, they own their memory."""
        kept = tuple(tensors)
        size = _size(kept)
        own = self._kept.setdefault(self._kind, {})
        self._bytes -= _size(own.pop(key, ()))
        self._drop_others(size)
        if self._bytes + size <= self._room:
            own[key] = kept
            self._bytes += size
            return
        self._passing.put(key, kept)
        if self._spill is not None:
            self._write(self._spill, (self._kind, key), kept)

    def close(self) -> None:
        """Forget everything; what is on disk is gone."""
        self._kept.clear()
        self._passing.clear()
        self._bytes = 0
        if self._spill is not None:
            self._spill.close()

    def _drop_others(self, size: int) -> None:
        for kind in [other for other in self._kept if other != self._kind]:
            while self._kept[kind] and self._bytes + size > self._room:
                self._bytes -= _size(self._kept[kind].popitem()[1])

    def _write(self, spill: Spill, key: Hashable, kept: Kept) -> None:
        written = spill.write(key, kept)
        if not written and self._spilled - {self._kind}:
            spill.clear()
            self._spilled.clear()
            written = spill.write(key, kept)
        if written:
            self._spilled.add(self._kind)


class _Passing:
    """The last few that came."""

    def __init__(self, room_bytes: int) -> None:
        self._room, self._bytes = room_bytes, 0
        self._kept: OrderedDict[Hashable, Kept] = OrderedDict()

    def get(self, key: Hashable) -> Kept | None:
        return self._kept.get(key)

    def put(self, key: Hashable, kept: Kept) -> None:
        self._bytes += _size(kept) - _size(self._kept.pop(key, ()))
        self._kept[key] = kept
        while self._bytes > self._room:
            self._bytes -= _size(self._kept.popitem(last=False)[1])

    def clear(self) -> None:
        self._kept.clear()
        self._bytes = 0


def _size(tensors: Sequence[torch.Tensor]) -> int:
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)
