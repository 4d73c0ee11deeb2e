"""FedEx-LoRA (arXiv 2410.09432): the factors are averaged, and what that loses is added to the base weights.

Clients go on from Ā = Σpₖ·Aₖ and B̄ = Σpₖ·Bₖ; the residual s·(Σpₖ·Bₖ·Aₖ − B̄·Ā) goes into the shift.
"""

from dataclasses import replace
from typing import ClassVar

import torch

from fedtune.aggregation.base import Contribution, Frame, Global
from fedtune.aggregation.collect import Collecting, Pair
from fedtune.aggregation.cores import directions
from fedtune.aggregation.scheme import LORA, Layout, Scheme, Traffic
from fedtune.aggregation.stack import Factors, increment, increment_numbers, stack
from fedtune.aggregation.traffic import lora_numbers
from fedtune.recipe.adapter import AdapterForm
from fedtune.recipe.aggregation import AggregationSection
from fedtune.state import State


class FedEx(Collecting):
    """The mean of the factors, and the residual as the clients' stacked factors or as dense matrices.

    Guarantees: the new product is the weighted mean of the clients' products, to fp32 rounding; clients that agree
    on A or on B, and a client alone, leave no residual.
    """

    exact_for: ClassVar[frozenset[AdapterForm]] = LORA
    heterogeneous_for: ClassVar[frozenset[AdapterForm]] = frozenset()
    dense: ClassVar[bool] = False

    def combine(self, contributions: list[Contribution]) -> Global:
        """The mean of everything that is trained, and the shift with this round's residual."""
        world = self.rest()
        state, change = dict(world.state), State()
        for module in self.frame.modules:
            pairs = self.pairs(contributions, module)
            state[f"{module}.lora_A"] = _centre(pairs, [pair.a for pair in pairs]).float()
            state[f"{module}.lora_B"] = _centre(pairs, [pair.b for pair in pairs]).float()
            change |= increment(module, self.residual(pairs), dense=self.dense)
        return replace(world, state=state, shift=world.shift.then(change))

    def residual(self, pairs: list[Pair]) -> Factors | None:
        """s·Σ pₖ·(Bₖ − B₀)·(Aₖ − Ā) as factors of inner dimension (K−1)·r at most; None where it is zero.

        For any B₀ this is s·(Σpₖ·Bₖ·Aₖ − B̄·Ā), as Σpₖ·(Aₖ − Ā) = 0. A client's own B₀ spares its term, and that of
        the smallest norm makes no term larger than the products themselves.
        """
        origin = min((pair.b for pair in pairs), key=lambda b: float(b.norm()))
        mean = _centre(pairs, [pair.a for pair in pairs])
        return stack((self.frame.scale * pair.weight * (pair.b - origin), pair.a - mean) for pair in pairs)


class DenseFedEx(FedEx):
    """The residual as one matrix (out, in) a module, whatever the number of clients."""

    dense: ClassVar[bool] = True


class TruncatedFedEx(FedEx):
    """The best approximation of the residual of a given rank: no longer exact."""

    exact_for: ClassVar[frozenset[AdapterForm]] = frozenset()

    def __init__(self, frame: Frame, rank: int) -> None:
        super().__init__(frame)
        self._rank = rank

    def residual(self, pairs: list[Pair]) -> Factors | None:
        """The leading singular directions of the residual; None where it is zero."""
        factors = super().residual(pairs)
        return None if factors is None else directions(factors).leading(self._rank)


def _centre(pairs: list[Pair], factors: list[torch.Tensor]) -> torch.Tensor:
    """The weighted mean, summed as differences from the first: equal factors give that very factor, bit for bit."""
    first = factors[0]
    mean = first.clone()
    for pair, factor in zip(pairs, factors, strict=True):
        mean += pair.weight * (factor - first)
    return mean


def _make(section: AggregationSection, frame: Frame) -> FedEx:
    if section.residual == "truncated":
        return TruncatedFedEx(frame, section.residual_rank or frame.slots)
    return DenseFedEx(frame) if section.residual == "dense" else FedEx(frame)


def _traffic(layout: Layout) -> Traffic:
    own = lora_numbers(layout, layout.rank) + layout.head
    return Traffic(up=own, down=own + sum(_residual_numbers(layout, module) for module in layout.modules))


def _residual_numbers(layout: Layout, module: tuple[int, int]) -> int:
    rank = max(len(layout.ranks) - 1, 0) * layout.rank
    if layout.residual == "truncated":
        rank = min(rank, layout.residual_rank or layout.rank)
    return module[0] * module[1] if layout.residual == "dense" else increment_numbers(module, rank)


SCHEME = Scheme(
    title="the mean of the factors, its residual added to the base weights (FedEx-LoRA, arXiv 2410.09432)",
    make=_make,
    aggregator=FedEx,
    forms=LORA,
    traffic=_traffic,
    formula={
        "up": "r(m+n)",
        "down": "r(m+n) and the round's residual: (K−1)·r(m+n) or m·n, whichever is less; m·n when dense; r'(m+n) when "
        "truncated to rank r'",
    },
    growth="one update a client",
    note="Exact with a factored or dense residual, not with a truncated one; a factored residual shows the clients' "
    "factors to all of them.",
)
