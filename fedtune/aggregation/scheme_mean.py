"""The plain mean as a scheme: every adapter, everything that is trained is sent."""

from fedtune.aggregation.mean import Mean
from fedtune.aggregation.scheme import EVERY_FORM, Layout, Scheme, Traffic
from fedtune.aggregation.traffic import state_numbers


def _traffic(layout: Layout) -> Traffic:
    numbers = state_numbers(layout, layout.own_rank) + layout.head
    return Traffic(up=numbers, down=numbers)


SCHEME = Scheme(
    title="the weighted mean of the deltas (Fed-SB, FedIT, FFA-LoRA, RAVAN, any method of peft)",
    make=lambda _section, frame: Mean(frame),
    aggregator=Mean,
    forms=EVERY_FORM,
    traffic=_traffic,
    formula={"up": "the client's own state", "down": "the same"},
)
