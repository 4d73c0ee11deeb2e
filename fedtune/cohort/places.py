"""Where the tokens of a stream stand when rows of like length are padded together, inside attention alone.

Shape suffixes: R = rows, N = keys (all tokens), M = queries, P = padded places.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

Ints = NDArray[np.int64]
Flags = NDArray[np.bool_]
Index = tuple[torch.Tensor, torch.Tensor]
"""(P,) what stands in each padded place, and (N,) the padded place of each."""
SHORTER = 0.7
"""Rows are padded together, inside attention alone, down to this share of the longest one's length."""


@dataclass(frozen=True, slots=True)
class Group:
    """Rows of like length: they are padded to the longest and attend in one call."""

    numbers: tuple[int, ...]
    """Which rows they are."""
    queries: int
    """Queries a row, padding included."""
    keys: int
    """Keys a row, padding included."""
    own: torch.Tensor | None
    """(R, 1, 1, keys) bool: which keys are the row's own; None where all are."""
    before: torch.Tensor | None
    """(R, 1, queries, keys) bool: which of those a query may see that sees nothing behind it; None where plain
    causality says it."""

    @property
    def rows(self) -> int:
        """R."""
        return len(self.numbers)


@dataclass(frozen=True, slots=True)
class Places:
    """Where the tokens of a stream stand in the padded groups, and back.

    Padding repeats a token of its own row, so that numbers that are not finite stay in their row.
    """

    groups: tuple[Group, ...]
    queries: Index | None
    """None where both are 0, 1, 2, …"""
    keys: Index | None
    """The same for keys."""
    reads: bool = False
    """Do some tokens alone ask?"""

    @classmethod
    def of(
        cls,
        lengths: Sequence[int],
        device: torch.device,
        counts: Sequence[int] | None = None,
        read: torch.Tensor | None = None,
    ) -> "Places":
        """For rows of `lengths` tokens, one or more, that all ask, or of which `counts` ask (one or more a row), those
        at the ascending places `read`."""
        tokens = np.asarray(lengths)
        if read is None or tuple(counts or ()) == tuple(lengths):
            padded = [(rows, _padded(rows, tokens)) for rows in _alike(tokens)]
            index = _index([keys for _, keys in padded], device)
            return cls(tuple(_group(rows, keys, None, None, device) for rows, keys in padded), index, index)
        asking = np.asarray(counts)
        inside = read.cpu().numpy() - np.repeat(np.cumsum(tokens) - tokens, asking)
        sets = [(rows, _padded(rows, asking), _padded(rows, tokens)) for rows in _alike(tokens)]
        groups = tuple(_group(rows, keys, queries[0], inside, device) for rows, queries, keys in sets)
        return cls(groups, _index([q for _, q, _ in sets], device), _index([k for _, _, k in sets], device), reads=True)


def _alike(lengths: Ints) -> Iterator[Ints]:
    """The numbers of the rows, longest first, in runs that are padded together."""
    order = np.argsort(-lengths, kind="stable")
    start = 0
    for place, row in enumerate(order):
        if lengths[row] < SHORTER * lengths[order[start]]:
            yield order[start:place]
            start = place
    yield order[start:]


def _padded(rows: Ints, counts: Ints) -> tuple[Ints, Flags]:
    """(R, T) which token each padded place of some rows repeats, and whether it is the token's own place."""
    starts = np.cumsum(counts) - counts
    steps = np.arange(counts[rows].max())
    places = starts[rows][:, None] + np.minimum(steps, counts[rows][:, None] - 1)
    return places, steps < counts[rows][:, None]


def _index(padded: Sequence[tuple[Ints, Flags]], device: torch.device) -> Index | None:
    index = np.concatenate([places.ravel() for places, _ in padded])
    own = np.concatenate([flags.ravel() for _, flags in padded])
    if own.all() and (index == np.arange(len(index))).all():
        return None
    back = np.empty(own.sum(), dtype=np.int64)
    back[index[own]] = np.flatnonzero(own)
    return torch.from_numpy(index).to(device), torch.from_numpy(back).to(device)


def _group(
    numbers: Ints, keys: tuple[Ints, Flags], queries: Ints | None, inside: Ints | None, device: torch.device
) -> Group:
    own = None if keys[1].all() else torch.from_numpy(keys[1])[:, None, None].to(device)
    rows, longest = tuple(numbers.tolist()), keys[0].shape[1]
    if queries is None or inside is None:
        return Group(rows, longest, longest, own, None)
    before = np.arange(longest) <= inside[queries][:, :, None]
    return Group(rows, queries.shape[1], longest, own, torch.from_numpy(before)[:, None].to(device))
