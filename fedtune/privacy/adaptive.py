"""A clip that follows a quantile of the updates' norms, by noised counts (arXiv 1905.03871, algorithm 1)."""

import math
from dataclasses import dataclass

from fedtune.privacy.noise import NoiseSource

_LEAST, _MOST = 1e-9, 1e9
"""Where a clip stays, whatever the noise: beyond it lies nothing but overflow."""


class UnclippedCount:
    """Σ (bₖ − ½) with bₖ = 1 for an update within the clip, else 0.

    Guarantees: adding or removing one update moves `value()` by exactly `sensitivity`, half of what a plain count
    would pay for.
    """

    sensitivity = 0.5

    def __init__(self) -> None:
        self._halves = 0

    def add(self, within: bool) -> None:
        """Count one update."""
        self._halves += 1 if within else -1

    def value(self) -> float:
        """The count less half of the updates."""
        return self._halves / 2


@dataclass(frozen=True, slots=True)
class QuantileClip:
    """clip ← clip · exp(−rate · (share − quantile)), where share is the noised share of unclipped updates.

    Guarantees: the next clip depends on the updates through the noised count alone.
    """

    quantile: float
    """The share of updates that the clip is to leave as they are."""
    rate: float
    count_noise: float
    """Standard deviation of the noise on the count."""
    divisor: float
    """How many updates are expected in a round: public, never how many came."""

    @property
    def noise_multiplier(self) -> float:
        """Of the count as a mechanism: its noise over its sensitivity."""
        return self.count_noise / UnclippedCount.sensitivity

    def after(self, clip: float, count: UnclippedCount, source: NoiseSource) -> float:
        """The clip of the next round."""
        noise = self.count_noise * float(source.normal((1,)).item())
        share = (count.value() + noise) / self.divisor + 0.5
        exponent = math.log(clip) - self.rate * (share - self.quantile)
        return math.exp(min(max(exponent, math.log(_LEAST)), math.log(_MOST)))
