"""Schemes that need every client's factors at once: updates are kept until the round ends, then worked on in order."""

from abc import abstractmethod
from dataclasses import dataclass
from typing import ClassVar

import torch

from fedtune.adapters.slots import narrow
from fedtune.aggregation.base import Aggregator, Contribution, Frame, Global
from fedtune.errors import RunError


@dataclass(frozen=True, slots=True)
class Pair:
    """One client's LoRA factors of one module after its training, in double precision."""

    weight: float
    """The client's share: the shares of a round sum to one."""
    a: torch.Tensor
    """(rₖ, in)."""
    b: torch.Tensor
    """(out, rₖ), without the scale."""


class Collecting(Aggregator):
    """Keeps the round's updates: memory grows by one update a client."""

    linear: ClassVar[bool] = False

    def __init__(self, frame: Frame) -> None:
        self.frame = frame
        self.world = Global({})
        self.round = 0
        self._kept: list[Contribution] = []

    def begin(self, world: Global, round_: int) -> None:
        """Start a round from what the federation knows."""
        self.world, self.round = world, round_
        self._kept = []

    def add(self, contribution: Contribution) -> None:
        """Keep one validated update."""
        self._kept.append(contribution)

    def finish(self) -> Global:
        """What the federation knows next; raises RunError where nothing was added."""
        if not self._kept:
            raise RunError("no update was added, so there is nothing to aggregate; wait for at least one client")
        return self.combine(sorted(self._kept, key=lambda contribution: contribution.client))

    @abstractmethod
    def combine(self, contributions: list[Contribution]) -> Global:
        """The next round's start from all updates of this one, which come sorted by client."""

    def pairs(self, contributions: list[Contribution], module: str) -> list[Pair]:
        """Every client's factors of `module`: what it was sent of the global ones, plus its delta."""
        total = sum(contribution.weight for contribution in contributions)
        return [self._pair(contribution, module, contribution.weight / total) for contribution in contributions]

    def _pair(self, contribution: Contribution, module: str, share: float) -> Pair:
        factors = {}
        for name in (f"{module}.lora_A", f"{module}.lora_B"):
            sent = narrow({name: self.world.state[name]}, self.frame.axes, contribution.slots)[name].double()
            factors[name] = sent + contribution.delta[name].double() if name in contribution.delta else sent
        return Pair(share, factors[f"{module}.lora_A"], factors[f"{module}.lora_B"])
