"""FLoRA (arXiv 2409.05976): all adapters are stacked into the base weights, and everybody starts a new one.

The shift takes up Σpₖ·s·Bₖ·Aₖ as [p₁·s·B₁ … p_K·s·B_K]·[A₁; …; A_K], the shares on one factor only; then A is drawn
anew and B is zero.
"""

from dataclasses import replace
from typing import ClassVar

import torch

from fedtune.adapters.lora_start import draw_a
from fedtune.aggregation.base import Contribution, Global
from fedtune.aggregation.collect import Collecting
from fedtune.aggregation.scheme import LORA, Layout, Scheme, Traffic
from fedtune.aggregation.stack import Factors, increment, increment_numbers, stack
from fedtune.aggregation.traffic import lora_numbers
from fedtune.recipe.adapter import AdapterForm
from fedtune.state import State


class Flora(Collecting):
    """The stacked products go into the shift; the adapter starts again.

    Guarantees: the new product is the weighted mean of the clients' products, to fp32 rounding, whatever their ranks.
    """

    exact_for: ClassVar[frozenset[AdapterForm]] = LORA
    heterogeneous_for: ClassVar[frozenset[AdapterForm]] = LORA

    def combine(self, contributions: list[Contribution]) -> Global:
        """The shift with every client's product in it, and a fresh adapter that adds nothing yet."""
        world = self.rest()
        state, change = dict(world.state), State()
        for module, (out, in_) in self.frame.modules.items():
            change |= increment(module, self._stacked(contributions, module))
            seed, rank = self.frame.seed, self.frame.slots
            state[f"{module}.lora_A"] = draw_a(rank, in_, seed=seed, module=module, round_=self.round)
            state[f"{module}.lora_B"] = torch.zeros(out, rank)
        return replace(world, state=state, shift=world.shift.then(change))

    def _stacked(self, contributions: list[Contribution], module: str) -> Factors | None:
        pairs = self.pairs(contributions, module)
        return stack((self.frame.scale * pair.weight * pair.b, pair.a) for pair in pairs)


def _traffic(layout: Layout) -> Traffic:
    own = lora_numbers(layout, layout.own_rank) + layout.head
    stacked = sum(increment_numbers(module, sum(layout.ranks)) for module in layout.modules)
    return Traffic(up=own, down=own + stacked)


SCHEME = Scheme(
    title="all adapters stacked into the base weights, then new ones (FLoRA, arXiv 2409.05976)",
    make=lambda _section, frame: Flora(frame),
    aggregator=Flora,
    forms=LORA,
    traffic=_traffic,
    formula={"up": "rₖ(m+n)", "down": "rₖ(m+n) and the round's stack: Σrⱼ(m+n) or m·n, whichever is less"},
    growth="one update a client",
    note="Every client is sent the factors of all others, and starts each round from a fresh A and B = 0.",
)
