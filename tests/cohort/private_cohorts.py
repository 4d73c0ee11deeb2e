"""Cohorts of private steps whose chance is given, and what the same clients make of it one after the other."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest
import torch

from fedtune.cohort.private_step import CohortPrivateStep
from fedtune.privacy.noise import NoiseSource
from fedtune.state import State
from fedtune.training.base import Assignment, LocalResult
from fedtune.training.private import PrivateStep
from fedtune.training.resident import Resident
from tests.training.parts import adapted_resident, answer_rows, assignment, image_rows, random_state, text_rows
from tests.training.private_parts import ADAPTERS, Given, NoNoise, lively, private

FAMILIES: dict[str, tuple[str, Any]] = {
    "bert": ("sequence-classification", text_rows),
    "llama": ("causal-lm", answer_rows),
    "vit": ("image-classification", image_rows),
}
SGD = {"optimizer": "sgd", "lr": 1.0, "weight_decay": 0.0, "batch_size": 4}
"""Under which a step is the released gradient, with the sign turned."""
Drawn = Sequence[Sequence[Sequence[int]]]
"""The rows of each client's steps."""


class NoiseInTurns:
    """A source for each client: in each step each is asked once, in the cohort's order."""

    def __init__(self, *sources: NoiseSource) -> None:
        self._sources, self._asked = sources, 0

    def normal(self, shape: Sequence[int]) -> torch.Tensor:
        self._asked += 1
        return self._sources[(self._asked - 1) % len(self._sources)].normal(shape)


class RowsInTurns:
    """The rows of each client's steps, in each step each one's in the cohort's order."""

    def __init__(self, drawn: Drawn) -> None:
        self._given, self.asked = [Given(*steps) for steps in drawn], 0

    def draw(self, count: int, rate: float) -> list[int]:
        self.asked += 1
        return self._given[(self.asked - 1) % len(self._given)].draw(count, rate)


def home_of(
    request: pytest.FixtureRequest, family: str, kind: str, privacy: dict[str, Any], **training: Any
) -> Resident:
    """A tiny model whose base matrices are large enough for gradients that are clipped, its dropout as it came."""
    folder = request.getfixturevalue(f"tiny_{family}_folder")
    return private(lively(adapted_resident(folder, ADAPTERS[kind], FAMILIES[family][0], **training)), **privacy)


def client(home: Resident, family: str, number: int, rows: int, **fields: Any) -> Assignment:
    """One of a cohort: rows, start and name of its own."""
    share = assignment(home, FAMILIES[family][1](rows, seed=number), client=f"c{number}")
    return replace(share, state=random_state(home, number), **fields)


def together(
    home: Resident, cohort: Sequence[Assignment], drawn: Drawn, noise: Sequence[NoiseSource], **options: Any
) -> list[LocalResult]:
    """What clients that share passes end with; nobody takes turns."""
    step = CohortPrivateStep(home, noise=NoiseInTurns(*noise), rows=RowsInTurns(drawn), **options)
    step._alone = None  # type: ignore[assignment]
    return list(step.train(cohort))


def in_turns(
    home: Resident, cohort: Sequence[Assignment], drawn: Drawn, noise: Sequence[NoiseSource]
) -> list[LocalResult]:
    """What each client ends with alone."""
    steps = [PrivateStep(home, noise=own, rows=Given(*rows)) for own, rows in zip(noise, drawn, strict=True)]
    return [next(step.train([share])) for step, share in zip(steps, cohort, strict=True)]


def sums(home: Resident, cohort: Sequence[Assignment], rows: Sequence[Sequence[int]], **options: Any) -> list[State]:
    """The sums of one step under `SGD`, without noise: what the divisor divides."""
    results = together(home, cohort, [[own] for own in rows], [NoNoise()], **options)
    factor = home.recipe.training.batch_size * home.recipe.training.accumulate
    return [
        {name: (share.state[name].double() - tensor.double()) * factor for name, tensor in result.state.items()}
        for share, result in zip(cohort, results, strict=True)
    ]
