"""The composed loss of many events: its (ε, δ) curve in both directions, to be asked again and again."""

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.signal import lfilter

from fedtune.errors import PrivacyError
from fedtune.privacy.accounting.convolve import Sum

Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Side:
    """δ(ε) of one direction: `deltas[i]` at ε = (first + i) * width, not increasing, all ε >= -width.

    Between the grid's points δ is a chord in e^ε, as the δ(ε) of a discrete pair is.
    """

    width: float
    first: int
    deltas: Floats

    @classmethod
    def of(cls, total: Sum, only: float, width: float) -> "Side":
        """From the distribution of the summed losses, and what has infinite loss beside it."""
        tail = np.cumsum(total.mass[::-1])[::-1]
        # δ one point further down = e^-width δ + (1 - e^-width) tail: sums of positive terms, nothing cancels.
        shrink = -math.expm1(-width)
        falling = lfilter([shrink], [1.0, -math.exp(-width)], tail[::-1])[::-1]
        deltas = np.minimum(np.append(falling, 0.0) + only + total.beyond, 1.0)
        first = total.first - 1
        if first > 0:  # Hardly any loss is so small, and what δ is below is at most one.
            deltas, first = np.concatenate([[1.0], deltas]), first - 1
        kept = max(0, -1 - first)
        return cls(width, first + kept, deltas[kept:] if kept < len(deltas) else deltas[-1:])

    @property
    def epsilons(self) -> Floats:
        """The grid: (points,)."""
        return np.asarray(self.width * np.arange(self.first, self.first + len(self.deltas), dtype=np.float64))

    def delta(self, epsilon: float) -> float:
        """δ at one ε >= 0."""
        at = epsilon / self.width - self.first
        if at <= 0:
            return float(self.deltas[0])
        low = math.floor(at)
        if low + 1 >= len(self.deltas):
            return float(self.deltas[-1])
        upper = self.deltas[low + 1]
        share = math.expm1((at - low - 1) * self.width) / math.expm1(-self.width)
        return float(upper + share * (self.deltas[low] - upper))

    def epsilon(self, delta: float) -> float:
        """The least ε >= 0 with δ(ε) <= `delta`; infinity where there is none."""
        at = int(np.searchsorted(-self.deltas, -delta))
        if at == len(self.deltas):
            return math.inf
        if at == 0:
            return max(0.0, self.width * self.first)
        high, low = self.deltas[at - 1], self.deltas[at]
        share = (delta - low) / (high - low)
        back = math.log1p(share * math.expm1(-self.width))
        return max(0.0, self.width * (self.first + at) + back)


@dataclass(frozen=True, slots=True)
class Loss:
    """What a composition of events may show of one unit, either way.

    `removed` compares a run with the unit to one without it, `added` the reverse. Guarantees: an upper bound of δ at
    every ε, and so of ε at every δ, up to 1e-7 of itself for the rounding of doubles.
    """

    removed: Side
    added: Side

    def delta(self, epsilon: float) -> float:
        """The least δ that goes with ε >= 0; PrivacyError for another."""
        if not epsilon >= 0:
            raise PrivacyError(f"epsilon must be 0 or more, got {epsilon:g}")
        return 0.0 if math.isinf(epsilon) else max(side.delta(epsilon) for side in (self.removed, self.added))

    def epsilon(self, delta: float) -> float:
        """The least ε that goes with 0 < δ < 1; infinity where no finite one is known, PrivacyError for another δ."""
        if not 0 < delta < 1:
            raise PrivacyError(f"delta must be more than 0 and less than 1, got {delta:g}")
        return max(side.epsilon(delta) for side in (self.removed, self.added))
