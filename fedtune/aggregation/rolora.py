"""RoLoRA (arXiv 2502.01755): clients train B in odd rounds and A in even ones.

The factor that rests is the same everywhere, so the mean of the other is the mean of the products. The first round
trains B, which starts at zero: A would have no gradient.
"""

from typing import ClassVar

from fedtune.aggregation.mean import Mean
from fedtune.aggregation.scheme import LORA, Layout, Names, Scheme, Traffic
from fedtune.aggregation.traffic import lora_numbers
from fedtune.recipe.adapter import AdapterForm


class AlternatingMean(Mean):
    """The mean of one factor beside one that all clients share.

    Guarantees: the new product is the weighted mean of the clients' products, to fp32 rounding.
    """

    exact_for: ClassVar[frozenset[AdapterForm]] = LORA
    heterogeneous_for: ClassVar[frozenset[AdapterForm]] = frozenset()


def trained_in(names: Names, round_: int) -> Names:
    """B in odd rounds, A in even ones; the head in all."""
    resting = ".lora_A" if round_ % 2 else ".lora_B"
    return tuple(name for name in names if not name.endswith(resting))


def _traffic(layout: Layout) -> Traffic:
    """Up: the mean of an odd and an even round."""
    numbers = lora_numbers(layout, layout.rank)
    return Traffic(up=numbers // 2 + layout.head, down=numbers + layout.head)


SCHEME = Scheme(
    title="B and A in turn, one a round (RoLoRA, arXiv 2502.01755)",
    make=lambda _section, frame: AlternatingMean(frame),
    aggregator=AlternatingMean,
    forms=LORA,
    traffic=_traffic,
    formula={"up": "r·m in odd rounds, r·n in even ones", "down": "r(m+n)"},
    trains=trained_in,
    note="Exact in every round; each factor learns in every other round only.",
)
