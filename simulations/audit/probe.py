"""A probe of the client's own private step: one step at a time, so that its noise can be told from its sum."""

import math
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch

from fedtune.audit.canaries.directions import norm
from fedtune.audit.canaries.evidence import gradient_of
from fedtune.audit.checks import Finding, Release, check_mechanism
from fedtune.data.base import Rows
from fedtune.privacy.clipping import clipped_sum
from fedtune.privacy.plan import Plan
from fedtune.privacy.rows import RowSampler
from fedtune.recipe import Recipe
from fedtune.state import State, subtract
from fedtune.training.base import Assignment
from fedtune.training.private import PrivateStep
from fedtune.training.private_mechanism import Mechanism
from fedtune.training.resident import Resident

STEPS, SINGLE = 12, 4
"""Steps that are probed, and rows whose contribution is measured alone."""


class WatchedRows:
    """A sampler, with what it gave last kept."""

    def __init__(self, coins: RowSampler) -> None:
        self._coins = coins
        self.drawn: list[int] = []

    def draw(self, count: int, rate: float) -> list[int]:
        """Those that are in the next step."""
        self.drawn = self._coins.draw(count, rate)
        return self.drawn


class OneRow:
    """A sample of one row that is known."""

    def __init__(self, row: int) -> None:
        self._row = row

    def draw(self, count: int, rate: float) -> list[int]:
        """That row."""
        return [self._row]


class Silence:
    """No noise, to see what is under it."""

    def normal(self, shape: Sequence[int]) -> torch.Tensor:
        """Zeros."""
        return torch.zeros(tuple(shape), dtype=torch.float64)


def probe(home: Resident, plan: Plan, rows: Rows, state: State, client: str) -> tuple[Finding, ...]:
    """Direct tests of the private step over one client's rows: noise, clip and samples against the plan.

    The step runs as it does in a run, with its own coins and its own noise, one object for all steps; only what it does
    to the state afterwards is the plainest there is. The sum under its noise is computed apart from it, row by row by
    autograd.
    """
    home = replace(home, recipe=_plainest(home.recipe))
    largest = max(_alone(home, rows, state, row) for row in range(min(SINGLE, len(rows))))
    coins = WatchedRows(Mechanism.of(home.recipe).rows)
    step, releases = PrivateStep(home, rows=coins), []
    for _ in range(STEPS):
        released = _step(step, rows, state)
        summed = _clipped_sum(home, plan, rows, state, coins.drawn)
        releases.append(
            Release.of(
                client,
                _flat(released),
                _flat(summed),
                largest=largest,
                drawn=frozenset(coins.drawn),
                available=len(rows),
            )
        )
    return check_mechanism(releases, plan)


def _plainest(recipe: Recipe) -> Recipe:
    """One step of plain descent whose rate undoes the divisor: the state moves by minus the noised sum itself."""
    training = recipe.training.model_copy(
        update={
            "steps": 1,
            "optimizer": "sgd",
            "lr": float(recipe.training.batch_size * recipe.training.accumulate),
            "head_lr": None,
            "weight_decay": 0.0,
            "momentum": 0.0,
            "schedule": "constant",
            "warmup_fraction": 0.0,
            "proximal": 0.0,
        }
    )
    return recipe.model_copy(update={"training": training})


def _alone(home: Resident, rows: Rows, state: State, row: int) -> float:
    """The norm of what one row puts into a sum, as the private step does it."""
    return norm(_step(PrivateStep(home, noise=Silence(), rows=OneRow(row)), rows, state))


def _step(step: PrivateStep, rows: Rows, state: State) -> State:
    """What one step released, before it was divided."""
    (result,) = step.train([Assignment(client="probe", round=1, state=state, rows=rows, seed=0)])
    return subtract(state, result.state)


def _clipped_sum(home: Resident, plan: Plan, rows: Rows, state: State, drawn: Sequence[int]) -> State:
    """The sum of the drawn rows' clipped gradients, each by autograd alone."""
    total = {name: torch.zeros(shape, dtype=torch.float64) for name, shape in home.shapes().items()}
    how = home.recipe.privacy.clipping
    for row in drawn:
        gradient = gradient_of(home, state, rows.batch([row]))
        if how == "flat":
            factor = min(1.0, plan.clip / max(norm(gradient), math.ulp(0.0)))
            part = {name: tensor.double() * factor for name, tensor in gradient.items()}
        else:
            part = clipped_sum({name: tensor[None] for name, tensor in gradient.items()}, plan.clip, how)
        total = {name: total[name] + part[name] for name in total}
    return total


def _flat(state: State) -> np.ndarray[tuple[int], np.dtype[np.float64]]:
    return np.concatenate([state[name].double().reshape(-1).numpy() for name in sorted(state)])
