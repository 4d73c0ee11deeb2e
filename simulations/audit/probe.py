"""A probe of the clients' own private step: one step at a time, so that its noise can be told from its sum."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch

from fedtune.audit.canaries.directions import norm
from fedtune.audit.canaries.evidence import gradient_of
from fedtune.audit.checks import Finding, Release, check_mechanism
from fedtune.audit.checks.shared import check_neighbours, check_sums
from fedtune.cohort.fits import fits
from fedtune.cohort.private_step import CohortPrivateStep
from fedtune.data.base import Rows
from fedtune.privacy.clipping import clipped_sum
from fedtune.privacy.plan import Plan
from fedtune.recipe import Recipe
from fedtune.state import State, subtract
from fedtune.training.base import Assignment
from fedtune.training.private_mechanism import Mechanism
from fedtune.training.resident import Resident
from simulations.audit.probe_chance import GivenRows, Silence, WatchedRows

RELEASES, FEWEST = 12, 4
"""Releases that are probed at least, of all clients together, and of each client of several."""
SINGLE, SUMS, BESIDE = 4, 2, 2
"""Rows whose contribution is measured by itself, steps whose sums are compared, rows of each neighbour meanwhile."""


@dataclass(frozen=True, slots=True)
class Lot:
    """Clients whose private steps are taken together, as a simulation hands them out."""

    rows: Mapping[str, Rows]
    """By client, in the order in which they are handed out."""
    host: str
    """The one whose rows are looked at one by one."""

    def probed(self, home: Resident) -> "Lot":
        """Those who share passes with the host: nobody, where the model has clients take turns."""
        return self if fits(home) is None else Lot({self.host: self.rows[self.host]}, self.host)


def steps_of(clients: int) -> int:
    """Steps in which the noise and the samples of so many clients are looked at."""
    return max(FEWEST if clients > 1 else 0, -(-RELEASES // clients))


def probe(home: Resident, plan: Plan, lot: Lot, state: State) -> tuple[Finding, ...]:
    """Direct tests of the private steps of a lot against the plan: noise, clip, samples, and that clients stay apart.

    The steps run as they do in a run, with their own coins and their own noise, one object for all of them; only what
    they do to the state afterwards is the plainest there is. The sums under their noise are computed apart from them,
    row by row by autograd. What needs silence is compared in full precision.
    """
    home = replace(home, recipe=_plainest(home.recipe))
    probed = _Probed(home, plan, lot.probed(home), state)
    largest, moved = probed.singles()
    findings = check_mechanism(probed.releases(largest), plan)
    if not moved:
        return findings
    return (*findings, check_sums(probed.distances(), plan), check_neighbours(moved, plan))


class _Probed:
    """A lot at one state."""

    def __init__(self, home: Resident, plan: Plan, lot: Lot, state: State) -> None:
        self._home, self._plan, self._lot, self._state = home, plan, lot, state
        self._given = GivenRows()
        exact = home if len(lot.rows) == 1 else replace(home, bf16=False)
        self._silent = CohortPrivateStep(exact, noise=Silence(), rows=self._given)

    def singles(self) -> tuple[float, list[float]]:
        """The largest norm of what one of the host's rows puts into its sum, and what it does to each neighbour's."""
        rows, host = self._lot.rows, self._lot.host
        beside = {name: list(range(min(BESIDE, len(own)))) for name, own in rows.items()}
        without = self._summed({**beside, host: []})
        largest, moved = 0.0, []
        for row in range(min(SINGLE, len(rows[host]))):
            found = self._summed({**beside, host: [row]})
            largest = max(largest, norm(found[host]))
            moved += [norm(subtract(found[name], without[name])) for name in rows if name != host]
        return largest, moved

    def releases(self, largest: float) -> list[Release]:
        """What some steps released, with the sum under it."""
        rows = self._lot.rows
        coins = WatchedRows(Mechanism.of(self._home.recipe).rows, len(rows))
        step, releases = CohortPrivateStep(self._home, rows=coins), []
        for _ in range(steps_of(len(rows))):
            released = self._taken(step)
            for name, drawn in zip(rows, coins.drawn, strict=True):
                releases.append(
                    Release.of(
                        name,
                        _flat(released[name]),
                        _flat(self._alone(name, drawn)),
                        largest=largest,
                        drawn=frozenset(drawn),
                        available=len(rows[name]),
                    )
                )
        return releases

    def distances(self) -> list[float]:
        """How far the sums of some steps are from those of rows that are taken alone."""
        coins, far = Mechanism.of(self._home.recipe), []
        for _ in range(SUMS):
            drawn = {name: coins.draw(len(own)) for name, own in self._lot.rows.items()}
            found = self._summed(drawn)
            far += [norm(subtract(self._alone(name, mine), found[name])) for name, mine in drawn.items()]
        return far

    def _summed(self, samples: Mapping[str, Sequence[int]]) -> dict[str, State]:
        """Each client's sum over these rows, as a step takes it."""
        self._given.give([samples[name] for name in self._lot.rows])
        return self._taken(self._silent)

    def _taken(self, step: CohortPrivateStep) -> dict[str, State]:
        """What one step of each client released, before it was divided."""
        cohort = [
            Assignment(client=name, round=1, state=self._state, rows=own, seed=0)
            for name, own in self._lot.rows.items()
        ]
        return {result.client: subtract(self._state, result.state) for result in step.train(cohort)}

    def _alone(self, client: str, drawn: Sequence[int]) -> State:
        """The sum of the drawn rows' clipped gradients, each by autograd alone."""
        home, clip, how = self._home, self._plan.clip, self._home.recipe.privacy.clipping
        total = {name: torch.zeros(shape, dtype=torch.float64) for name, shape in home.shapes().items()}
        for row in drawn:
            gradient = gradient_of(home, self._state, self._lot.rows[client].batch([row]))
            if how == "flat":
                factor = min(1.0, clip / max(norm(gradient), math.ulp(0.0)))
                part = {name: tensor.double() * factor for name, tensor in gradient.items()}
            else:
                part = clipped_sum({name: tensor[None] for name, tensor in gradient.items()}, clip, how)
            total = {name: total[name] + part[name] for name in total}
        return total


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


def _flat(state: State) -> np.ndarray[tuple[int], np.dtype[np.float64]]:
    return np.concatenate([state[name].double().reshape(-1).numpy() for name in sorted(state)])
