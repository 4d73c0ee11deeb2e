"""A stream: the rows of all clients of a pass end to end, without padding, and the tokens that the loss reads.

Shape suffixes: R = rows, N = tokens of all rows, M = tokens that are read.
"""

from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate

import torch

from fedtune.cohort.drops import Drops
from fedtune.cohort.layout import Layout
from fedtune.cohort.places import Places


@dataclass(frozen=True, eq=False)
class Stream:
    """Where each row's tokens stand; every row has one token or more, and at least one row is there."""

    rows: tuple[int, ...]
    """Rows of each client."""
    lengths: tuple[int, ...]
    """(R,) tokens of each row."""
    read: torch.Tensor
    """(M,) int64 on the device: the tokens that the loss reads, ascending places in the stream."""
    reads: tuple[int, ...]
    """(R,) how many of them each row has."""
    seeds: tuple[int, ...] = ()
    """(R,) what each row's dropout is drawn by; empty where nothing is dropped."""

    @cached_property
    def total(self) -> int:
        """N."""
        return sum(self.lengths)

    @cached_property
    def starts(self) -> tuple[int, ...]:
        """(R,) the place of each row's first token."""
        return tuple(accumulate(self.lengths, initial=0))[:-1]

    @cached_property
    def equal(self) -> bool:
        """Are all rows of one length?"""
        return len(set(self.lengths)) == 1

    @cached_property
    def all_to_all(self) -> Places:
        """How every token looks at its row's tokens."""
        return Places.of(self.lengths, self.read.device)

    @cached_property
    def read_to_all(self) -> Places:
        """How the read tokens look at their row's tokens."""
        return Places.of(self.lengths, self.read.device, self.reads, self.read)

    @cached_property
    def drops(self) -> Drops | None:
        """The masks of one pass, which begin anew with each stream; None where nothing is dropped."""
        return Drops(self.seeds, self.lengths, self.read, self.reads) if self.seeds else None

    def layout(self, *, selects: bool) -> Layout:
        """What the cohort layers are told; `selects` where a layer works on the read tokens alone."""
        return Layout(self.rows, self.lengths, self.reads if selects else None)
