"""Optimisers on the coordinator's side: the change that a round comes to is a gradient, and is not taken as it is.

FedAvgM (arXiv 1909.06335) adds momentum; FedAdagrad, FedAdam and FedYogi (arXiv 2003.00295, algorithm 2) divide by
the root of a second moment as well. As in that algorithm the second moment starts at τ², and neither is corrected
for its start.
"""

from collections.abc import Callable
from dataclasses import replace

import torch

from fedtune.aggregation.around import Around
from fedtune.aggregation.base import Aggregator, Global
from fedtune.recipe.adapter import AdapterForm
from fedtune.recipe.aggregation import AggregationSection
from fedtune.state import State

SecondMoment = Callable[[torch.Tensor, torch.Tensor, float], torch.Tensor]
"""(v, Δ², β2) to the next v."""

SECOND_MOMENTS: dict[str, SecondMoment] = {
    "adagrad": lambda v, square, _: v + square,
    "adam": lambda v, square, beta2: beta2 * v + (1 - beta2) * square,
    "yogi": lambda v, square, beta2: v - (1 - beta2) * square * torch.sign(v - square),
}
"""How the second moment goes on; `avgm` has none."""


class ServerOptimised(Around):
    """x ← x + η·m / (√v + τ) with moments of Δ = inner result − x; `avgm`: x ← x + η·m with m ← β·m + Δ.

    Every tensor of the state takes the step, the task head too. The moments are in `Global.memory`, `momentum/<name>`
    and `second/<name>` in fp32, so a resumed run takes the same steps, bit for bit. With a rate of one and no momentum
    `avgm` gives what the inner aggregator gives.
    """

    def __init__(self, inner: Aggregator, section: AggregationSection) -> None:
        super().__init__(inner)
        self._section = section
        self._second = SECOND_MOMENTS.get(section.server_optimizer)

    @property
    def exact_for(self) -> frozenset[AdapterForm]:  # type: ignore[override]
        """None: the step is not the mean."""
        return frozenset()

    def finish(self) -> Global:
        """What the federation knows next; raises RunError where nothing was added."""
        mean = super().finish()
        state: State = {}
        memory = dict(mean.memory)
        for name, reached in mean.state.items():
            delta = reached.double() - self.world.state[name].double()
            step = self._step(name, delta, memory)
            # Around the inner result, so that a step of just Δ gives it without a rounding.
            state[name] = torch.where(step == delta, reached, (reached.double() + (step - delta)).float())
        return replace(mean, state=state, memory=memory)

    def _step(self, name: str, delta: torch.Tensor, memory: State) -> torch.Tensor:
        """How far the tensor goes, in double precision; its moments in `memory` go on."""
        section = self._section
        momentum = section.server_momentum * _moment(memory, f"momentum/{name}", delta, 0.0)
        if self._second is None:
            momentum = momentum + delta
            adapted = momentum
        else:
            momentum = momentum + (1 - section.server_momentum) * delta
            tau = section.server_tau
            second = self._second(
                _moment(memory, f"second/{name}", delta, tau * tau), delta.square(), section.server_beta2
            )
            memory[f"second/{name}"] = second.float()
            adapted = momentum / (second.sqrt() + tau)
        memory[f"momentum/{name}"] = momentum.float()
        return section.server_lr * adapted


def _moment(memory: State, name: str, like: torch.Tensor, start: float) -> torch.Tensor:
    """A moment in double precision; `start` everywhere in the first round."""
    found = memory.get(name)
    return torch.full_like(like, start) if found is None else found.double()
