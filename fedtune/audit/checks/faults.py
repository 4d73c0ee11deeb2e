"""Mechanisms that are broken on purpose, and which part of the audit sees each of them."""

import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

import numpy as np
import torch

from fedtune.audit.checks import check_events, check_mechanism, check_start
from fedtune.audit.checks.finding import Finding
from fedtune.audit.checks.specimen import CANARIES, Parts, run_specimen
from fedtune.audit.claim import tradeoff_of
from fedtune.audit.estimators import curve_p_value, one_run_against
from fedtune.audit.estimators.one_run import one_run
from fedtune.privacy.clipping import clipped_sum
from fedtune.privacy.plan import Plan

CONFIDENCE = 0.95


class NoNoise:
    """Noise that was forgotten."""

    def normal(self, shape: Sequence[int]) -> torch.Tensor:
        """Zeros."""
        return torch.zeros(tuple(shape), dtype=torch.float64)


class ReusedNoise:
    """Noise whose generator is seeded anew before each release."""

    def __init__(self) -> None:
        self._seed = secrets.randbits(63)

    def normal(self, shape: Sequence[int]) -> torch.Tensor:
        """The same numbers each time."""
        return torch.randn(tuple(shape), dtype=torch.float64, generator=torch.Generator().manual_seed(self._seed))


class ShuffledRows:
    """Batches of one size from a shuffled epoch, which many trainers call sampling."""

    def __init__(self) -> None:
        self._draw = np.random.default_rng(secrets.randbits(63))
        self._left: list[int] = []

    def draw(self, count: int, rate: float) -> list[int]:
        """The next rate · count rows of the epoch."""
        size = int(count * rate)
        if len(self._left) < size:
            self._left = self._draw.permutation(count).tolist()
        batch, self._left = self._left[:size], self._left[size:]
        return sorted(batch)


def _twice(gradients: dict[str, torch.Tensor], clip: float) -> dict[str, torch.Tensor]:
    return clipped_sum(gradients, 2 * clip, "flat")


FAULTS: Mapping[str, Parts] = MappingProxyType(
    {
        "none": Parts(),
        "noise forgotten": Parts(noise=NoNoise),
        "clip off by a factor of two": Parts(clip=_twice),
        "noise seed reused": Parts(noise=ReusedNoise),
        "batch not Poisson": Parts(rows=ShuffledRows),
        "private initialisation": Parts(init="private-gradient"),
    }
)
"""By name; `none` is the mechanism as it should be."""


@dataclass(frozen=True, slots=True)
class Sight:
    """What each part of the audit says of one specimen."""

    fault: str
    bound: float
    """The lower bound on ε of the one-run audit."""
    bound_p: float
    """The p-value of the claim (ε, δ) by the one-run audit."""
    curve_p: float
    """The p-value of the plan's whole privacy curve, which is the stronger test."""
    tests: tuple[Finding, ...]
    plan: tuple[Finding, ...]

    @property
    def empirical(self) -> bool:
        """Does the attack refute the claim?"""
        # Two statements, so each at half the level.
        return min(self.bound_p, self.curve_p) <= (1 - CONFIDENCE) / 2

    @property
    def seen_by(self) -> tuple[str, ...]:
        """Everything that sees the fault."""
        found = (finding.name for finding in (*self.tests, *self.plan) if not finding.holds)
        return (("empirical bound",) if self.empirical else ()) + tuple(found)


def look(fault: str, plan: Plan, *, canaries: int = CANARIES, epsilon: float) -> Sight:
    """Run the specimen with one fault and let every part of the audit look at it; `epsilon` is what `plan` claims."""
    parts = FAULTS[fault]
    coins = np.array([secrets.randbits(1) for _ in range(canaries)], dtype=np.bool_)
    trace = run_specimen(plan, parts, coins)
    return Sight(
        fault=fault,
        bound=one_run(trace.scores, delta=plan.delta, confidence=CONFIDENCE).epsilon,
        bound_p=one_run_against(trace.scores, epsilon=epsilon, delta=plan.delta),
        curve_p=curve_p_value(trace.scores, tradeoff_of(plan.planned())),
        tests=check_mechanism(trace.releases, plan),
        plan=(check_events(trace.ran, plan), check_start(parts.init, plan)),
    )
