"""SCAFFOLD's control variate on the coordinator's side (arXiv 1910.06378, algorithm 1)."""

from collections.abc import Mapping

import torch

from fedtune.aggregation.exact_sum import ExactSum
from fedtune.state import State


class ControlSum:
    """c + (1/N)·Σ Δcₖ over the round's clients, whatever their order; N is the number of clients that there are."""

    def __init__(self) -> None:
        self._sums: dict[str, ExactSum] = {}

    def check(self, change: Mapping[str, torch.Tensor]) -> None:
        """Raise WeightOutOfRange where a change is too large to be summed."""
        for name, tensor in change.items():
            self._sums.setdefault(name, ExactSum(tuple(tensor.shape))).check(tensor)

    def add(self, change: Mapping[str, torch.Tensor]) -> None:
        """Add one client's change, which has passed `check`."""
        for name, tensor in change.items():
            self._sums[name].add(tensor)

    def after(self, control: State, population: int = 1) -> State:
        """The next control variate; `control` where nobody sent a change."""
        if not self._sums:
            return control
        return {
            name: (c.double() + self._sums[name].value() / population).float() if name in self._sums else c
            for name, c in control.items()
        }
