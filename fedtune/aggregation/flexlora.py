"""FlexLoRA (arXiv 2402.11505): the clients' products are summed, and the sum is cut back to the adapter's rank.

Σpₖ·Bₖ·Aₖ ≈ U·Σ·Vᵀ of rank r gives B = U·Σ and A = Vᵀ. Slots are in the order of their singular values, so a client of
smaller rank holds the leading ones.
"""

from dataclasses import replace
from typing import ClassVar

import torch

from fedtune.adapters.lora_start import draw_a
from fedtune.aggregation.base import Contribution, Global
from fedtune.aggregation.collect import Collecting
from fedtune.aggregation.cores import Directions, directions
from fedtune.aggregation.scheme import LORA, Layout, Scheme, Traffic
from fedtune.aggregation.stack import stack
from fedtune.aggregation.traffic import lora_numbers
from fedtune.recipe.adapter import AdapterForm
from fedtune.state import State


class FlexLora(Collecting):
    """The best approximation of the mean product of the adapter's rank, found through a small core.

    Guarantees: no other factors of that rank come closer to the mean product (Eckart and Young), to fp32 rounding.
    Exact only where the sum has no more directions than the adapter has slots.
    """

    exact_for: ClassVar[frozenset[AdapterForm]] = frozenset()
    heterogeneous_for: ClassVar[frozenset[AdapterForm]] = LORA

    def combine(self, contributions: list[Contribution]) -> Global:
        """The leading singular directions of every module's sum as its new factors."""
        world = self.rest()
        state = dict(world.state)
        for module in self.frame.modules:
            state |= self._factors_of(contributions, module)
        return replace(world, state=state)

    def width(self, found: Directions) -> int:
        """How many directions to keep."""
        return min(found.rank(), self.frame.slots)

    def _factors_of(self, contributions: list[Contribution], module: str) -> State:
        """B = U·Σ and A = Vᵀ; a slot without a direction starts anew, as A = B = 0 would never train again."""
        out, in_ = self.frame.modules[module]
        rank = self.frame.slots
        a = draw_a(rank, in_, seed=self.frame.seed, module=module, round_=self.round)
        b = torch.zeros(out, rank)
        pairs = self.pairs(contributions, module)
        factors = stack((pair.weight * pair.b, pair.a) for pair in pairs)
        if factors is not None:
            found = directions(factors)
            width = self.width(found)
            b[:, :width], a[:width] = found.leading(width)
        return {f"{module}.lora_A": a, f"{module}.lora_B": b}


def own_rank_both_ways(layout: Layout) -> Traffic:
    """rₖ(m+n) and the head, up and down."""
    own = lora_numbers(layout, layout.own_rank) + layout.head
    return Traffic(up=own, down=own)


SCHEME = Scheme(
    title="the singular value decomposition of the mean product, cut to the rank (FlexLoRA, arXiv 2402.11505)",
    make=lambda _section, frame: FlexLora(frame),
    aggregator=FlexLora,
    forms=LORA,
    traffic=own_rank_both_ways,
    formula={"up": "rₖ(m+n)", "down": "rₖ(m+n)"},
    growth="one update a client",
    note="What does not fit into the adapter's rank is lost each round.",
)
