"""A robust rule in the place of the mean: the round's updates as one matrix, mixed, then judged."""

import math
from dataclasses import replace
from typing import ClassVar

import torch

from fedtune.aggregation.base import Contribution, Frame, Global
from fedtune.aggregation.collect import Collecting
from fedtune.aggregation.robust.rules import BEFORE, RULES, Round
from fedtune.errors import RunError
from fedtune.recipe.adapter import AdapterForm
from fedtune.recipe.aggregation import AggregationSection
from fedtune.seeds import generator
from fedtune.state import State

CENTRE = "centre/"
"""In `Global.memory`, before the name of each tensor of the last round's aggregate (centred clipping)."""


class RobustMean(Collecting):
    """state + rule(δ₁ … δ_K); every client counts once, whatever weight it claims.

    Guarantees: as in `Aggregator`, to the bit: rows are sorted by client. Memory: the updates, and as much again for
    the matrix and for each step before the rule, so 8·K·d bytes and more. f is ⌊attackers·K⌋ of the K updates that
    passed validation.

    Buckets are drawn from the adapter's seed and the round, which clients know: an attacker may foresee them.
    """

    exact_for: ClassVar[frozenset[AdapterForm]] = frozenset()
    heterogeneous_for: ClassVar[frozenset[AdapterForm]] = frozenset()

    def __init__(self, section: AggregationSection, frame: Frame) -> None:
        super().__init__(frame)
        self._section = section
        self._rule = RULES[section.rule]

    def add(self, contribution: Contribution) -> None:
        """Keep one validated update; nothing of it is summed, the task head no more than the rest."""
        self._kept.append(contribution)

    def combine(self, contributions: list[Contribution]) -> Global:
        """The next global state; raises RunError where too few updates came for the rule."""
        names = sorted(contributions[0].delta)
        matrix = torch.stack([_flat(contribution.delta, names) for contribution in contributions])
        given = self._round(len(matrix), names)
        _check_majority(len(matrix), given.f)
        for step in self._section.before_rule:
            matrix = BEFORE[step](matrix, given)
            _check_majority(len(matrix), given.f)
        update = self._named(self._rule.aggregate(matrix, given), names)
        moved = {name: (self.world.state[name].double() + update[name]).float() for name in names}
        return replace(self.world, state={**self.world.state, **moved}, memory=self._remembered(update))

    def _round(self, rows: int, names: list[str]) -> Round:
        zeros = {name: torch.zeros(self.frame.shapes[name]) for name in names}
        last = {name: self.world.memory.get(CENTRE + name, zero) for name, zero in zeros.items()}
        draw = generator(self.frame.seed, "buckets", round_=self.round)
        return Round(poisoned_among(rows, self._section.attackers), _flat(last, names), draw, self._section)

    def _named(self, vector: torch.Tensor, names: list[str]) -> State:
        parts = torch.split(vector, [math.prod(self.frame.shapes[name]) for name in names])
        return {name: part.reshape(self.frame.shapes[name]) for name, part in zip(names, parts, strict=True)}

    def _remembered(self, update: State) -> State:
        if not self._rule.keeps_centre:
            return self.world.memory
        return {**self.world.memory, **{CENTRE + name: tensor.float() for name, tensor in update.items()}}


def poisoned_among(rows: int, attackers: float) -> int:
    """f = ⌊attackers·rows⌋, safe from the rounding of decimal fractions: 0.29 of 100 is 29."""
    return int(attackers * rows + 1e-9)


def _flat(tensors: State, names: list[str]) -> torch.Tensor:
    return torch.cat([tensors[name].reshape(-1) for name in names])


def _check_majority(rows: int, f: int) -> None:
    if 2 * f >= rows:
        raise RunError(
            f"of {rows} updates or buckets {f} may be poisoned, which is no minority: lower aggregation.attackers or "
            "aggregation.bucket_size, or wait for more replies by federation.min_replies"
        )
