"""Is one method better than another? Paired differences, with an interval that says how sure that is."""

import math
import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from simulations.studies.outcome import Outcome

T95 = {1: 12.706, 2: 4.303, 3: 3.182, 4: 2.776, 5: 2.571, 6: 2.447, 7: 2.365, 8: 2.306, 9: 2.262, 10: 2.228}
"""Two-sided 95 % quantiles of Student's t by degrees of freedom; for more than there are, the last is a little wide."""


@dataclass(frozen=True, slots=True)
class Difference:
    """How far a method is above the reference."""

    method: str
    mean: float
    """Of the differences in accuracy, over pairs of one split and seed."""
    half_width: float | None
    """Of the 95 % interval around it; None for one pair."""

    @property
    def is_clear(self) -> bool:
        """Does the interval leave zero out?"""
        return self.half_width is not None and abs(self.mean) > self.half_width

    def in_words(self) -> str:
        """`fed-sb: +3.1 ± 2.0, clear`."""
        points = f"{self.method}: {100 * self.mean:+.1f}"
        if self.half_width is None:
            return f"{points}, one pair"
        verdict = "within the noise" if not self.is_clear else "clearly above" if self.mean > 0 else "clearly below"
        return f"{points} ± {100 * self.half_width:.1f}, {verdict}"


def differences(
    outcomes: Iterable[Outcome], splits: Sequence[str], reference: str, methods: Sequence[str]
) -> list[Difference]:
    """Each other method against `reference`, the best first; over the splits and seeds that both finished."""
    found = {
        (o.cell.method, o.cell.split, o.cell.seed): o
        for o in outcomes
        if o.cell.stage == "report" and o.cell.split in splits and not o.failure
    }
    made = []
    for method in methods:
        mine = [(one, found.get((reference, split, seed))) for (m, split, seed), one in found.items() if m == method]
        gaps = [_above(one, other) for one, other in mine if other is not None]
        if method != reference and gaps:
            made.append(_difference(method, gaps))
    return sorted(made, key=lambda difference: -difference.mean)


def _above(one: Outcome, other: Outcome) -> float:
    """On the test rows, or on the clients' own where one of the two has no global state."""
    if one.accuracy is None or other.accuracy is None:
        return (one.local_accuracy or 0.0) - (other.local_accuracy or 0.0)
    return one.accuracy - other.accuracy


def _difference(method: str, gaps: Sequence[float]) -> Difference:
    half = None
    if len(gaps) > 1:
        quantile = T95[min(len(gaps) - 1, max(T95))]
        half = quantile * statistics.stdev(gaps) / math.sqrt(len(gaps))
    return Difference(method, statistics.fmean(gaps), half)
