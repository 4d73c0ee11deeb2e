"""Which rows are computed together on their way into the cache: by what a table holds, never by who asks when.

Products round differently in other company. A row's company is fixed here, so that its numbers are too, on a CPU: one
worker and two, and a run that was resumed, see the same bits.
"""

import hashlib
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from functools import cached_property

from fedtune.cohort.base import Part
from fedtune.cohort.cache import PASSING_BYTES
from fedtune.cohort.keys import text_keys
from fedtune.cohort.pack import Packed
from fedtune.data.base import Batch, Rows
from fedtune.data.rows import EncodedRows

SIZE = 8
"""Neighbours in a table. A short text alone fills no matrix product: eight take less than half of the time."""
LARGEST = 1024
"""Rows of a table of neighbours; those of a larger one may be gone from the cache before the next is asked for."""
A_NUMBER = 4
"""Bytes of a number that is kept, or more."""


def most_tokens(numbers: int) -> int:
    """Tokens of the largest table of neighbours, where so many numbers are kept of each.

    Its rows find room in any case (`PASSING_BYTES`): of long rows of a wide model that had none, eight would be
    computed each time that one is asked for.
    """
    return PASSING_BYTES // (A_NUMBER * numbers)


@dataclass(frozen=True, slots=True)
class Source:
    """How a row of a pass is computed: as number `at` of `part`, whose rows are kept as (`name`, their number)."""

    name: Hashable
    at: int
    part: Part

    @property
    def key(self) -> Hashable:
        """What the row is kept as."""
        return self.key_at(self.at)

    def key_at(self, at: int) -> Hashable:
        """What a row of `part` is kept as."""
        return self.name, at


@dataclass(frozen=True)
class WholeBatch:
    """A batch as the rows that it was made of, which are computed together."""

    batched: Batch

    def __len__(self) -> int:
        return len(self.batched["labels"])

    @cached_property
    def digest(self) -> bytes:
        """A print of what the batch says."""
        print_ = hashlib.blake2b(digest_size=32)
        for name in sorted(self.batched):
            tensor = self.batched[name].contiguous()
            print_.update(f"{name} {tuple(tensor.shape)} ".encode())
            print_.update(tensor.numpy().tobytes())
        return print_.digest()

    def batch(self, indices: Sequence[int]) -> Batch:
        """Some of the rows, as wide as they are."""
        chosen = list(indices)
        return {name: tensor[chosen] for name, tensor in self.batched.items()}


def sources(parts: Sequence[Part], packed: Packed, *, neighbours: int) -> list[Source]:
    """One for each row of a stream; a table's neighbours are computed together where it has up to so many tokens."""
    rows = [(table, index) for table, indices in parts for index in indices]
    found = [_together(*rows[number], neighbours=neighbours) for number in packed.rows]
    if all(found):
        return [one for one in found if one is not None]
    single = [_single(key, *rows[number]) for number, key in zip(packed.rows, text_keys(packed), strict=True)]
    return [one or other for one, other in zip(found, single, strict=True)]


def _single(name: Hashable, table: Rows, index: int) -> Source:
    """Alone, and named by what it says: clients that hold the same text share it."""
    return Source(name, 0, (table, (index,)))


def _together(table: Rows, index: int, *, neighbours: int) -> Source | None:
    if isinstance(table, WholeBatch):
        return Source(table.digest, index, (table, range(len(table))))
    if not neighbours or not isinstance(table, EncodedRows) or len(table) > LARGEST:
        return None
    if int(table.lengths.sum()) > neighbours:
        return None
    start = index - index % SIZE
    some = range(start, min(start + SIZE, len(table)))
    return Source(tuple(table.keys(some)), index - start, (table, some))
