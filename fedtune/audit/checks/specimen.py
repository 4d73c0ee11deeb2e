"""A specimen of DP-SGD to break: the project's own clipping, coins and noise around rows whose gradients are known.

Each of `CANARIES` rows has a long gradient along an axis of its own, so what is left of it in a release is one number,
and an attack on it is as strong as an attack can be.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from fedtune.audit.checks.recording import Release
from fedtune.audit.estimators.scores import Scores
from fedtune.privacy.clipping import clipped_sum
from fedtune.privacy.events import Event
from fedtune.privacy.noise import NoiseSource, SecureNoise
from fedtune.privacy.plan import Plan
from fedtune.privacy.rows import PoissonRows, RowSampler
from fedtune.recipe.adapter import Initialisation

CANARIES = 1000
LENGTH = 10.0
"""Of a row's gradient before it is clipped to 1."""
_SINGLE = 8
"""Rows a step whose contribution is measured alone."""
Clip = Callable[[dict[str, torch.Tensor], float], dict[str, torch.Tensor]]


def _flat(gradients: dict[str, torch.Tensor], clip: float) -> dict[str, torch.Tensor]:
    return clipped_sum(gradients, clip, "flat")


@dataclass(frozen=True, slots=True)
class Parts:
    """What a mechanism is put together from; a fault is one of them exchanged."""

    noise: Callable[[], NoiseSource] = SecureNoise
    rows: Callable[[], RowSampler] = PoissonRows
    clip: Clip = _flat
    init: Initialisation = "random"


@dataclass(frozen=True, slots=True)
class Trace:
    """What one run of a specimen left behind."""

    scores: Scores
    """Of the white-box attack: it sees the start and every release."""
    releases: tuple[Release, ...]
    ran: tuple[Event, ...]


def specimen_plan(*, noise_multiplier: float = 4.0, sampling_rate: float = 0.5, steps: int = 16) -> Plan:
    """What a specimen claims to do, whatever it does."""
    event = Event(noise_multiplier=noise_multiplier, sampling_rate=sampling_rate, count=steps)
    return Plan(
        unit="example",
        relation="add-or-remove-one",
        delta=1e-5,
        clip=1.0,
        noise_multiplier=noise_multiplier,
        sampling_rate=sampling_rate,
        sampler="poisson-rows",
        trust="client",
        steps=steps,
        rounds=1,
        start_events=(),
        round_events=(event,),
    )


def run_specimen(plan: Plan, parts: Parts, coins: NDArray[np.bool_]) -> Trace:
    """Run it once over the rows whose coin fell on insertion."""
    inserted = np.flatnonzero(coins)
    start = coins * LENGTH if parts.init == "private-gradient" else np.zeros(len(coins))
    steps = list(_steps(plan, parts, inserted, len(coins)))
    evidence = np.sum([start, *(_evidence(released / plan.clip, plan) for released, _ in steps)], axis=0)
    names = tuple(f"canary-{position:05d}" for position in range(len(coins)))
    event = Event(noise_multiplier=plan.noise_multiplier, sampling_rate=plan.sampling_rate, count=len(steps))
    return Trace(Scores(names, evidence, coins), tuple(release for _, release in steps), (event,))


def _steps(
    plan: Plan, parts: Parts, inserted: NDArray[np.int64], width: int
) -> Iterator[tuple[NDArray[np.float64], Release]]:
    rows, noise = parts.rows(), parts.noise()
    for _ in range(plan.steps):
        drawn = rows.draw(len(inserted), plan.sampling_rate)
        gradients = torch.zeros(len(drawn), width)
        gradients[range(len(drawn)), inserted[drawn]] = LENGTH
        single = [_norm(parts.clip({"w": gradients[k : k + 1].clone()}, plan.clip)) for k in range(_SINGLE)][
            : len(drawn)
        ]
        summed = parts.clip({"w": gradients}, plan.clip)["w"]
        released = summed + noise.normal((width,)) * (plan.noise_multiplier * plan.clip)
        yield (
            released.numpy(),
            Release.of(
                "specimen",
                released.numpy(),
                summed.numpy(),
                largest=max(single, default=0.0),
                drawn=frozenset(drawn),
                available=len(inserted),
            ),
        )


def _evidence(x: NDArray[np.float64], plan: Plan) -> NDArray[np.float64]:
    """log of the likelihood of a step's number with the canary inserted over that without: the best test there is."""
    q, sigma = plan.sampling_rate, plan.noise_multiplier
    return np.asarray(np.logaddexp(np.log1p(-q) if q < 1 else -np.inf, np.log(q) + (x - 0.5) / sigma**2))


def _norm(state: dict[str, torch.Tensor]) -> float:
    return float(torch.linalg.vector_norm(state["w"]))
