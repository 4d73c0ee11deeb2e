"""From values to places on a chart: linear scales with round ticks."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

_ABSURD = 1e18


@dataclass(frozen=True, slots=True)
class Scale:
    """Maps `low`…`high` to `start`…`end`, in units of the drawing."""

    low: float
    high: float
    start: float
    end: float

    def __call__(self, value: float) -> float:
        """The place of a value, rounded to a hundredth so that pages stay small; outsiders go on the edge."""
        share = (min(max(value, self.low), self.high) - self.low) / (self.high - self.low)
        return round(self.start + share * (self.end - self.start), 2)


def nice_step(span: float, wanted: int) -> float:
    """The step of 1, 2, 2.5 or 5 times a power of ten that cuts `span` into about `wanted` parts."""
    rough = span / max(wanted, 1)
    power = 10.0 ** math.floor(math.log10(rough))
    return next((m * power for m in (1, 2, 2.5, 5) if m * power >= rough * 0.999), 10 * power)


def nice_range(values: Sequence[float], *, from_zero: bool, wanted: int = 5) -> tuple[float, float, tuple[float, ...]]:
    """(low, high, ticks) that hold all values but those of a run that diverged (NaN, infinite, beyond `_ABSURD`)."""
    drawn = [v for v in values if abs(v) < _ABSURD] or [0.0, 1.0]
    low, high = min(drawn), max(drawn)
    if from_zero:
        low = min(low, 0.0)
    if high - low <= 1e-9 * max(abs(low), abs(high), 1.0):
        margin = max(abs(high) * 0.1, 1e-3)
        low, high = (low if from_zero else low - margin), high + margin
    step = nice_step(high - low, wanted)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    ticks = tuple(i * step for i in range(first, last + 1))
    return ticks[0], ticks[-1], ticks


def round_ticks(first: int, last: int, wanted: int = 8) -> tuple[int, ...]:
    """Whole round numbers to label an axis with; both ends only where they fall on the step."""
    step = math.ceil(nice_step(max(last - first, 1), wanted))
    step = 5 if step == 3 else step  # from 2.5
    start = math.ceil(first / step) * step
    return tuple(range(start, last + 1, step))
