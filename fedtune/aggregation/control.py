"""SCAFFOLD's control variate on the coordinator's side (arXiv 1910.06378, algorithm 1)."""

from collections.abc import Mapping

import torch

from fedtune.aggregation.exact_sum import ExactSum
from fedtune.state import State


class ControlSum:
    """c + (1/N)·Σ Δcₖ over the round's clients, whatever their order; N is the number of clients that there are.

    While N stays what it was this keeps c at the mean of all N clients' variates, each as its client last changed it.
    """

    def __init__(self) -> None:
        self._sums: dict[str, ExactSum] = {}
        self._clients = 0

    def check(self, change: Mapping[str, torch.Tensor]) -> None:
        """Raise WeightOutOfRange where a change is too large to be summed."""
        for name, tensor in change.items():
            self._sums.setdefault(name, ExactSum(tuple(tensor.shape))).check(tensor)

    def add(self, change: Mapping[str, torch.Tensor]) -> None:
        """Add one client's change, which has passed `check`."""
        for name, tensor in change.items():
            self._sums[name].add(tensor)
        self._clients += bool(change)

    def after(self, control: State, population: int = 1) -> State:
        """The next control variate; `control` where nobody sent a change.

        There are `population` clients, or as many as sent a change where that is more.
        """
        clients = max(population, self._clients)
        if not self._clients:
            return control
        after = dict(control)
        for name, total in self._sums.items():
            mean = total.value() / clients
            after[name] = (after[name].double() + mean if name in after else mean).float()
        return after
