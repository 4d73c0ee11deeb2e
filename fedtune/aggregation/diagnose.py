"""How far a round's result is from the mean of what the clients learnt, in weight space: the product error.

A scheme averages tensors, and what counts is ΔW. ‖ΔW − Σpₖ·ΔWₖ‖ / ‖Σpₖ·ΔWₖ‖ over all modules together is 0 for an
exact scheme, and for the mean of LoRA's factors it grows with how far the clients have drifted apart.
"""

import math
from collections.abc import Sequence
from contextlib import suppress

import torch

from fedtune.adapters.base import Products
from fedtune.adapters.shift import Shift, dense_of, modules_of
from fedtune.adapters.slots import narrow, widen
from fedtune.aggregation.around import Around
from fedtune.aggregation.base import Aggregator, Contribution, Frame, Global
from fedtune.errors import AdapterError
from fedtune.state import State

Terms = dict[str, list[tuple[torch.Tensor, torch.Tensor]]]
"""(A, B) by module; their products add up to ΔW."""


class Diagnosed(Around):
    """The inner aggregator, and the product error of what it made; keeps every update of the round."""

    def __init__(self, inner: Aggregator, frame: Frame) -> None:
        super().__init__(inner)
        self._frame = frame
        self._kept: list[Contribution] = []
        self.error: float | None = None
        """The product error of the last finished round; None before, and where there is no product to compare with."""

    @property
    def linear(self) -> bool:  # type: ignore[override]
        """Never: the clients' own products are looked at."""
        return False

    def begin(self, world: Global, round_: int) -> None:
        """Start a round from what the federation knows."""
        super().begin(world, round_)
        self._kept, self.error = [], None

    def add(self, contribution: Contribution) -> None:
        """Take in one client's validated update, and keep it where the inner aggregator did."""
        super().add(contribution)
        self._kept.append(contribution)

    def finish(self) -> Global:
        """What the inner aggregator makes of the round; `error` is known after."""
        after = super().finish()
        with suppress(AdapterError):
            error = product_error(self._frame, self.world, after, self._kept)
            self.error = error if math.isfinite(error) else None
        return after


def product_error(frame: Frame, before: Global, after: Global, contributions: Sequence[Contribution]) -> float:
    """‖ΔW − Σpₖ·ΔWₖ‖ / ‖Σpₖ·ΔWₖ‖ in the Frobenius norm over all modules, with ΔW = shift + the adapter's product.

    A client's state is the part of `before` that it was sent plus its delta. In double precision, two matrices of one
    module at a time. Infinite where the clients' mean is zero and the result is not. Raises AdapterError where the
    adapter adds no such product.
    """
    mean = _mean_terms(frame, before, sorted(contributions, key=lambda contribution: contribution.client))
    reached: Products = frame.products(after.state)
    distance = size = 0.0
    for module in frame.modules:
        expected = _change(frame, before.shift, mean[module], module)
        found = _change(frame, after.shift, [reached[module]], module)
        distance = math.hypot(distance, float((found - expected).norm()))
        size = math.hypot(size, float(expected.norm()))
    if not distance:
        return 0.0
    return distance / size if size else math.inf


def _mean_terms(frame: Frame, before: Global, contributions: Sequence[Contribution]) -> Terms:
    """Σpₖ·Bₖ·Aₖ by module; clients that share a factor A, as those of a square adapter do, become one term."""
    total = math.fsum(contribution.weight for contribution in contributions)
    terms: Terms = {module: [] for module in frame.modules}
    for contribution in contributions:
        for module, (a, b) in frame.products(_state_of(frame, before, contribution)).items():
            share = b * (contribution.weight / total)
            if terms[module] and torch.equal(terms[module][-1][0], a):
                share += terms[module].pop()[1]
            terms[module].append((a, share))
    return terms


def _state_of(frame: Frame, before: Global, contribution: Contribution) -> State:
    """A client's whole state after its training, zero outside of its slots."""
    sent = narrow(before.state, frame.axes, contribution.slots)
    trained = {name: sent[name] + delta for name, delta in contribution.delta.items()}
    return widen({**sent, **trained}, frame.shapes, frame.axes, contribution.slots)


def _change(
    frame: Frame, shift: Shift, terms: Sequence[tuple[torch.Tensor, torch.Tensor]], module: str
) -> torch.Tensor:
    """ΔW (out, in) of one module, in double precision."""
    shifted = module in modules_of(shift.tensors)
    change = dense_of(shift.tensors, module) if shifted else torch.zeros(frame.modules[module], dtype=torch.float64)
    for a, b in terms:
        change = torch.addmm(change, b, a)
    return change
