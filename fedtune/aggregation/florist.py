"""FLoRIST (arXiv 2506.09199): of the mean product, as many singular directions as hold a share of its energy.

The energy is Σσ², the squared Frobenius norm of Σpₖ·Bₖ·Aₖ; each module keeps the fewest directions that reach the
threshold, and has the rest of its slots free for new ones.
"""

import torch

from fedtune.aggregation.base import Frame
from fedtune.aggregation.cores import Directions
from fedtune.aggregation.flexlora import FlexLora, own_rank_both_ways
from fedtune.aggregation.scheme import LORA, Scheme


class Florist(FlexLora):
    """The leading directions up to a share `energy` of Σσ², and no more than the adapter has slots."""

    def __init__(self, frame: Frame, energy: float) -> None:
        super().__init__(frame)
        self._energy = energy

    def width(self, found: Directions) -> int:
        """The fewest directions that hold the share of the energy, as far as there are slots."""
        return min(enough(found.values, self._energy), super().width(found))


def enough(values: torch.Tensor, energy: float) -> int:
    """The smallest p with Σσ² of the first p ≥ energy·Σσ²; `values` descend."""
    held = values.square().cumsum(0)
    return int((held < energy * held[-1]).sum()) + 1


SCHEME = Scheme(
    title="the singular directions that hold a share of the mean product's energy (FLoRIST, arXiv 2506.09199)",
    make=lambda section, frame: Florist(frame, section.energy),
    aggregator=Florist,
    forms=LORA,
    traffic=own_rank_both_ways,
    formula={"up": "rₖ(m+n)", "down": "rₖ(m+n)"},
    growth="one update a client",
    note="Directions beyond `aggregation.energy` are dropped; their slots are sent too, and start anew.",
)
