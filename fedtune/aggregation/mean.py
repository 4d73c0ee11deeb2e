"""The weighted mean of the clients' deltas: FedAvg on whatever the adapter trains.

For `square` adapters R ↦ B·R·A is linear in the shared B and A, so the mean of R is exact (Fed-SB, arXiv
2502.15436). For `lora` it averages A and B each on its own (FedIT, arXiv 2305.05644): mean(B)·mean(A) is not
the mean of the products.
"""

from collections.abc import Mapping
from typing import ClassVar

import torch

from fedtune.aggregation.base import Aggregator
from fedtune.aggregation.exact_sum import ExactSum
from fedtune.errors import RunError
from fedtune.recipe.adapter import AdapterKind
from fedtune.state import State


class Mean(Aggregator):
    """state + Σ wₖ·δₖ / Σ wₖ, summed exactly: memory for two float64 copies of the state, whatever the cohort."""

    exact_for: ClassVar[frozenset[AdapterKind]] = frozenset({"square"})
    linear: ClassVar[bool] = True
    heterogeneous: ClassVar[bool] = False

    def __init__(self) -> None:
        self._state: State = {}
        self._sums: dict[str, ExactSum] = {}
        self._weight = ExactSum(())

    def begin(self, state: State) -> None:
        """Start a round from a global state."""
        self._state = state
        self._sums = {name: ExactSum(tuple(tensor.shape)) for name, tensor in state.items()}
        self._weight = ExactSum(())

    def add(self, delta: Mapping[str, torch.Tensor], weight: float) -> None:
        """Add one validated delta with a weight > 0; raises WeightOutOfRange, and adds nothing, beyond 2²⁸."""
        for name, total in self._sums.items():
            total.check(delta[name], weight)
        for name, total in self._sums.items():
            total.add(delta[name], weight)
        self._weight.add(torch.tensor(weight, dtype=torch.float64))

    def finish(self) -> State:
        """The next global state in fp32; raises RunError where nothing was added."""
        weight = self._weight.value().item()
        if weight <= 0:
            raise RunError("no update was added, so there is no mean; wait for at least one client")
        return {
            name: (self._state[name].double() + total.value() / weight).float() for name, total in self._sums.items()
        }
