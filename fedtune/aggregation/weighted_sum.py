"""Σ wₖ·δₖ and Σ wₖ over named tensors, entry by entry, whatever the order of the terms."""

import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch

from fedtune.adapters.slots import Axes, Slots, mask, widen
from fedtune.aggregation.exact_sum import ExactSum
from fedtune.state import Shapes, State

Names = tuple[str, ...]
RUN = 2**18
"""Up to how many numbers tensors are put together; a larger tensor stays alone, so that nothing large is copied."""


@dataclass(frozen=True, eq=False)
class Term:
    """One client's part in the sums, which has been found to fit."""

    flats: Mapping[Names, torch.Tensor]
    weight: float
    slots: Slots


class WeightedSum:
    """Small tensors are summed as one flat tensor, for a cohort sends many of them.

    Memory for two float64 copies of what is sent, and of the entries by slot where clients train different slots.
    """

    def __init__(self, shapes: Shapes, axes: Axes) -> None:
        self._shapes, self._axes = shapes, axes
        self._totals: dict[Names, ExactSum] = {}
        self._weights: dict[Names, ExactSum] = {}
        """Of terms that reach every entry of these tensors."""
        self._reached: dict[str, ExactSum] = {}
        """Of terms that reach some slots alone, by entry."""

    def term(self, delta: Mapping[str, torch.Tensor], weight: float, slots: Slots) -> Term:
        """A term to be added; raises WeightOutOfRange where it is too large, or there are too many."""
        wide = widen(delta, self._shapes, self._axes, slots)
        flats = {run: _flat([wide[name] for name in run]) for run in self._runs(sorted(delta))}
        for run, flat in flats.items():
            self._totals.setdefault(run, ExactSum(tuple(flat.shape))).check(flat, weight)
        return Term(flats, weight, slots)

    def add(self, term: Term) -> None:
        """Add one client's term."""
        for run, flat in term.flats.items():
            self._totals[run].add(flat, term.weight)
            if term.slots is None:
                self._weights.setdefault(run, ExactSum(())).add(torch.ones(()), term.weight)
            else:
                self._reach(run, term.weight, term.slots)

    def means(self) -> State:
        """The weighted mean of every tensor of which there is a term, float64; 0 where nobody's term reaches."""
        parts: dict[str, list[torch.Tensor]] = defaultdict(list)
        for run in sorted(self._totals):
            sizes = [math.prod(self._shapes[name]) for name in run]
            for name, part in zip(run, torch.split(self._totals[run].value(), sizes), strict=True):
                parts[name].append(part.reshape(self._shapes[name]))
        return {name: self._mean(torch.stack(some).sum(dim=0), self._weight(name)) for name, some in parts.items()}

    @property
    def bytes(self) -> int:
        """Memory of the sums."""
        return sum(one.bytes for kind in (self._totals, self._weights, self._reached) for one in kind.values())

    def _runs(self, names: Sequence[str]) -> list[Names]:
        runs: list[list[str]] = []
        room = 0
        for name in names:
            room -= math.prod(self._shapes[name])
            if room < 0 or not runs:
                runs.append([])
                room = RUN - math.prod(self._shapes[name])
            runs[-1].append(name)
        return [tuple(run) for run in runs]

    def _reach(self, run: Names, weight: float, slots: Slots) -> None:
        for name in run:
            reach = mask(self._shapes[name], self._axes.get(name, ()), slots)
            self._reached.setdefault(name, ExactSum(tuple(reach.shape))).add(reach, weight)

    def _weight(self, name: str) -> torch.Tensor:
        """The weights that reach each entry of a tensor; it broadcasts to the tensor's shape."""
        weights = [self._weights[run].value() for run in sorted(self._weights) if name in run]
        weights += [self._reached[name].value()] if name in self._reached else []
        return sum(weights, start=torch.zeros((), dtype=torch.float64))

    @staticmethod
    def _mean(total: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
        return torch.where(weight > 0, total / weight.clamp(min=torch.finfo(torch.float64).tiny), 0.0)


def _flat(tensors: Sequence[torch.Tensor]) -> torch.Tensor:
    return tensors[0].reshape(-1) if len(tensors) == 1 else torch.cat([tensor.reshape(-1) for tensor in tensors])
