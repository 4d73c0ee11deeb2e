"""FedSA-LoRA (arXiv 2410.01463): clients train everything and share A alone; B and the head never leave them.

The published configuration keeps `lora_B` and the classifier local.
"""

from fedtune.aggregation.mean import Mean
from fedtune.aggregation.scheme import LORA, Layout, Names, Scheme, Traffic
from fedtune.aggregation.traffic import a_numbers


def stays_local(names: Names) -> Names:
    """Every module's B and the task head."""
    return tuple(name for name in names if name.endswith(".lora_B") or name.startswith("head."))


def _traffic(layout: Layout) -> Traffic:
    numbers = a_numbers(layout, layout.rank)
    return Traffic(up=numbers, down=numbers)


SCHEME = Scheme(
    title="A is averaged, B and the head stay with each client (FedSA-LoRA, arXiv 2410.01463)",
    make=lambda _section, frame: Mean(frame),
    aggregator=Mean,
    forms=LORA,
    traffic=_traffic,
    formula={"up": "r·n", "down": "r·n"},
    keeps=stays_local,
    note="There is no single global model: each client has its own, and the coordinator's B and head stay as they "
    "started.",
)
