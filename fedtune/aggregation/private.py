"""The mean under client-level privacy: clipped updates summed, noise of the plan added, divided by a public number."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import ClassVar

import torch

from fedtune.adapters.slots import widen
from fedtune.aggregation.base import Aggregator, Contribution, Frame, Global
from fedtune.aggregation.server_optimizer import ServerOptimised
from fedtune.errors import PrivacyError
from fedtune.privacy.adaptive import QuantileClip, UnclippedCount
from fedtune.privacy.noise import NoiseSource
from fedtune.privacy.updates import ClippedSum
from fedtune.recipe.adapter import AdapterForm
from fedtune.recipe.aggregation import AggregationSection
from fedtune.state import Shapes, State

CLIP = "private/clip"
"""In `Global.memory`: the clip of the next round where it adapts, one float64; it is a noised release itself."""


@dataclass(frozen=True, slots=True)
class Release:
    """How a round's sum is released."""

    clip: float
    """Of the first round where it adapts."""
    divisor: float
    """How many updates are expected in a round: public, never how many came."""
    noise: Callable[[Shapes], State]
    """Noise for a sum of sensitivity 1, float64; asked once a round."""
    adapt: QuantileClip | None
    source: NoiseSource
    """Of the count's noise, where the clip adapts."""


class PrivateMean(Aggregator):
    """state + (Σ clip(δₖ) + clip·noise) / divisor over whole updates of weight one.

    Guarantees: one client's update moves the sum by the clip at most, before the noise; every tensor of the state gets
    noise, also where nobody replied; a round is released once: a second `finish` raises PrivacyError, for the mean of
    two would have less noise than the plan says.
    """

    exact_for: ClassVar[frozenset[AdapterForm]] = frozenset()
    linear: ClassVar[bool] = True
    heterogeneous_for: ClassVar[frozenset[AdapterForm]] = frozenset({"square", "ravan"})

    def __init__(self, frame: Frame, release: Release) -> None:
        self._frame = frame
        self._release = release
        self._world = Global({})
        self._sum: ClippedSum | None = None
        self._count = UnclippedCount()

    def begin(self, world: Global, round_: int) -> None:
        """Start a round from what the federation knows."""
        self._world = world
        kept = world.memory.get(CLIP)
        clip = self._release.clip if kept is None or self._release.adapt is None else float(kept.item())
        self._sum = ClippedSum(self._frame.shapes, clip)
        self._count = UnclippedCount()

    def add(self, contribution: Contribution) -> None:
        """Add one validated delta; what it does not hold of the adapter counts as zero.

        Raises PrivacyError for another weight than one or a control variate, ProtocolError where it cannot be summed.
        """
        if contribution.weight != 1.0 or contribution.control:
            raise PrivacyError('client-level privacy adds each update once; set aggregation.weights = "uniform"')
        delta = widen(contribution.delta, self._frame.shapes, self._frame.axes, contribution.slots)
        self._count.add(self._begun().add(delta))

    def finish(self) -> Global:
        """The next global state in fp32; raises PrivacyError where the round was released before."""
        total, release = self._begun(), self._release
        self._sum = None
        state = dict(self._world.state)
        noise = release.noise(self._frame.shapes)
        for name, value in total.value().items():
            mean = (value + noise[name] * total.sensitivity) / release.divisor
            state[name] = (state[name].double() + mean).float()
        after = replace(self._world, state=state)
        if release.adapt is None:
            return after
        clip = release.adapt.after(total.sensitivity, self._count, release.source)
        return replace(after, memory={**after.memory, CLIP: torch.tensor([clip], dtype=torch.float64)})

    def _begun(self) -> ClippedSum:
        if self._sum is None:
            raise PrivacyError("a private round is released once; begin another one first")
        return self._sum


def make_private_aggregator(section: AggregationSection, frame: Frame, release: Release) -> Aggregator:
    """A fresh aggregator for one private round; a server optimiser around it works on what is released."""
    mean = PrivateMean(frame, release)
    return mean if section.server_optimizer == "none" else ServerOptimised(mean, section)
