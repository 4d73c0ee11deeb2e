"""The weighted mean of the clients' deltas: FedAvg on whatever the adapter trains.

For `square` adapters R ↦ B·R·A is linear in the shared B and A, so the mean of R is exact (Fed-SB, arXiv
2502.15436); so it is for `ravan` (2506.05568), for `lora` with a frozen A (FFA-LoRA, 2403.12313), and for `full`. For
`lora` it averages A and B each on its own (FedIT, 2305.05644): mean(B)·mean(A) is not the mean of the products.
"""

from dataclasses import replace
from typing import ClassVar

import torch

from fedtune.adapters.slots import mask, widen
from fedtune.aggregation.base import Aggregator, Contribution, Frame, Global
from fedtune.aggregation.control import ControlSum
from fedtune.aggregation.exact_sum import ExactSum
from fedtune.errors import RunError
from fedtune.recipe.adapter import AdapterForm
from fedtune.state import State


class Mean(Aggregator):
    """state + Σ wₖ·δₖ / Σ wₖ, summed exactly: memory for two float64 copies of the state, whatever the cohort.

    Where clients train different slots, each entry is averaged over those who trained it; one that nobody trained
    stays as it is.
    """

    exact_for: ClassVar[frozenset[AdapterForm]] = frozenset({"ffa", "square", "ravan", "full"})
    linear: ClassVar[bool] = True
    heterogeneous_for: ClassVar[frozenset[AdapterForm]] = frozenset({"square", "ravan"})

    def __init__(self, frame: Frame) -> None:
        self._frame = frame
        self._world = Global({})
        self._sums: dict[str, ExactSum] = {}
        self._weights: dict[str, ExactSum] = {}
        self._control = ControlSum()
        self._count = 0

    def begin(self, world: Global, round_: int) -> None:
        """Start a round from what the federation knows."""
        self._world = world
        self._sums, self._weights = {}, {}
        self._control = ControlSum()
        self._count = 0

    def add(self, contribution: Contribution) -> None:
        """Add one validated delta; raises WeightOutOfRange, and adds nothing, beyond 2²⁸."""
        delta = widen(contribution.delta, self._frame.shapes, self._frame.axes, contribution.slots)
        for name, tensor in delta.items():
            self._sum_of(name).check(tensor, contribution.weight)
        self._control.check(contribution.control)
        for name, tensor in delta.items():
            self._sums[name].add(tensor, contribution.weight)
            reach = mask(self._frame.shapes[name], self._frame.axes.get(name, ()), contribution.slots)
            self._weights[name].add(reach, contribution.weight)
        self._control.add(contribution.control)
        self._count += 1

    def finish(self) -> Global:
        """The next global state in fp32; raises RunError where nothing was added."""
        if not self._count:
            raise RunError("no update was added, so there is no mean; wait for at least one client")
        state = dict(self._world.state)
        for name, total in self._sums.items():
            weight = self._weights[name].value()
            mean = torch.where(weight > 0, total.value() / weight.clamp(min=torch.finfo(torch.float64).tiny), 0.0)
            state[name] = (state[name].double() + mean).float()
        control = self._control.after(self._world.control, self._world.clients)
        return replace(self._world, state=state, control=control)

    def _sum_of(self, name: str) -> ExactSum:
        if name not in self._sums:
            shape, axes = self._frame.shapes[name], self._frame.axes.get(name, ())
            self._sums[name] = ExactSum(shape)
            self._weights[name] = ExactSum(tuple(size if axis in axes else 1 for axis, size in enumerate(shape)))
        return self._sums[name]


def mean_state(world: Global, contributions: list[Contribution], frame: Frame) -> State:
    """The state that `Mean` would come to."""
    mean = Mean(frame)
    mean.begin(world, 0)
    for contribution in contributions:
        mean.add(contribution)
    return mean.finish().state
