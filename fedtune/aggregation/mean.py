"""The weighted mean of the clients' deltas: FedAvg on whatever the adapter trains.

For `square` adapters R ↦ B·R·A is linear in the shared B and A, so the mean of R is exact (Fed-SB, arXiv
2502.15436); so it is for `ravan` (2506.05568), for `lora` with a frozen A (FFA-LoRA, 2403.12313), for `prompt` and for
`full`. For `lora` it averages A and B each on its own (FedIT, 2305.05644): mean(B)·mean(A) is not the mean of the
products.
"""

from dataclasses import replace
from typing import ClassVar

from fedtune.aggregation.base import Aggregator, Contribution, Frame, Global
from fedtune.aggregation.control import ControlSum
from fedtune.aggregation.weighted_sum import WeightedSum
from fedtune.errors import RunError
from fedtune.recipe.adapter import AdapterForm
from fedtune.state import State


class Mean(Aggregator):
    """state + Σ wₖ·δₖ / Σ wₖ, summed exactly: memory for two float64 copies of the state, whatever the cohort.

    Where clients train different slots, each entry is averaged over those who trained it; one that nobody trained
    stays as it is.
    """

    exact_for: ClassVar[frozenset[AdapterForm]] = frozenset({"ffa", "square", "ravan", "prompt", "full"})
    linear: ClassVar[bool] = True
    heterogeneous_for: ClassVar[frozenset[AdapterForm]] = frozenset({"square", "ravan"})

    def __init__(self, frame: Frame) -> None:
        self._frame = frame
        self._world = Global({})
        self._sums = WeightedSum(frame.shapes, frame.axes)
        self._control = ControlSum()
        self._count = 0

    def begin(self, world: Global, round_: int) -> None:
        """Start a round from what the federation knows."""
        self._world = world
        self._sums = WeightedSum(self._frame.shapes, self._frame.axes)
        self._control = ControlSum()
        self._count = 0

    def add(self, contribution: Contribution) -> None:
        """Add one validated delta; raises WeightOutOfRange, and adds nothing, beyond 2²⁸."""
        term = self._sums.term(contribution.delta, contribution.weight, contribution.slots)
        self._control.check(contribution.control)
        self._sums.add(term)
        self._control.add(contribution.control)
        self._count += 1

    def finish(self) -> Global:
        """The next global state in fp32; raises RunError where nothing was added."""
        if not self._count:
            raise RunError("no update was added, so there is no mean; wait for at least one client")
        state = dict(self._world.state)
        for name, mean in self._sums.means().items():
            state[name] = (state[name].double() + mean).float()
        control = self._control.after(self._world.control, self._world.clients)
        return replace(self._world, state=state, control=control)


def mean_state(world: Global, contributions: list[Contribution], frame: Frame) -> State:
    """The state that `Mean` would come to."""
    mean = Mean(frame)
    mean.begin(world, 0)
    for contribution in contributions:
        mean.add(contribution)
    return mean.finish().state
