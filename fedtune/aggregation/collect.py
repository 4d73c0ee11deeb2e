"""Schemes that need every client's factors at once: updates are kept until the round ends, then worked on in order.

The factors are `<module>.lora_A` and `<module>.lora_B`; what else is trained (the task head) is averaged as in `Mean`.
"""

from abc import abstractmethod
from dataclasses import dataclass, replace
from typing import ClassVar

import torch

from fedtune.adapters.slots import narrow
from fedtune.aggregation.base import Aggregator, Contribution, Frame, Global
from fedtune.aggregation.mean import Mean
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
        self._rest = Mean(frame)
        self._factors = {f"{module}.{side}" for module in frame.modules for side in ("lora_A", "lora_B")}

    def begin(self, world: Global, round_: int) -> None:
        """Start a round from what the federation knows."""
        self.world, self.round = world, round_
        self._kept = []
        self._rest.begin(world, round_)

    def add(self, contribution: Contribution) -> None:
        """Keep one validated update; raises WeightOutOfRange, and keeps nothing, where the rest cannot be summed."""
        rest = {name: tensor for name, tensor in contribution.delta.items() if name not in self._factors}
        self._rest.add(replace(contribution, delta=rest))
        self._kept.append(contribution)

    def rest(self) -> Global:
        """What the federation knows next of everything but the factors, which are still those of the round's start.

        Tensors that are no factors become their weighted mean, and SCAFFOLD's control variate moves on, as in `Mean`.
        Raises RunError where nothing was added.
        """
        return self._rest.finish()

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
