"""Is one method better than another? Differences paired by seed, with an interval that says how sure that is."""

import math
import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from simulations.studies.outcome import Outcome

T95 = {1: 12.706, 2: 4.303, 3: 3.182, 4: 2.776, 5: 2.571, 6: 2.447, 7: 2.365, 8: 2.306, 9: 2.262}
"""Two-sided 95 % quantiles of Student's t by degrees of freedom."""


@dataclass(frozen=True, slots=True)
class Difference:
    """How far a method is above the reference."""

    method: str
    mean: float
    """Of the differences in accuracy, over seeds."""
    half_width: float | None
    """Of the 95 % interval around it; None for one seed."""

    @property
    def is_clear(self) -> bool:
        """Does the interval leave zero out?"""
        return self.half_width is not None and abs(self.mean) > self.half_width

    def in_words(self) -> str:
        """`fed-sb: +3.1 ± 2.0, clear`."""
        points = f"{self.method}: {100 * self.mean:+.1f}"
        if self.half_width is None:
            return f"{points}, one seed"
        verdict = "within the noise" if not self.is_clear else "clearly above" if self.mean > 0 else "clearly below"
        return f"{points} ± {100 * self.half_width:.1f}, {verdict}"


def differences(outcomes: Iterable[Outcome], split: str, reference: str, methods: Sequence[str]) -> list[Difference]:
    """Each other method against `reference`, the best first; over the seeds that both finished."""
    found = {(o.cell.method, o.cell.seed): o for o in _reported(outcomes, split)}
    made = []
    for method in methods:
        pairs = [(found[method, s], found[reference, s]) for m, s in found if m == method and (reference, s) in found]
        if method != reference and pairs:
            made.append(_difference(method, [_above(one, other) for one, other in pairs]))
    return sorted(made, key=lambda difference: -difference.mean)


def _reported(outcomes: Iterable[Outcome], split: str) -> list[Outcome]:
    return [o for o in outcomes if o.cell.stage == "report" and o.cell.split == split and not o.failure]


def _above(one: Outcome, other: Outcome) -> float:
    """On the test rows, or on the clients' own where one of the two has no global state."""
    if one.accuracy is None or other.accuracy is None:
        return (one.local_accuracy or 0.0) - (other.local_accuracy or 0.0)
    return one.accuracy - other.accuracy


def _difference(method: str, gaps: Sequence[float]) -> Difference:
    half = None
    if len(gaps) > 1:
        quantile = T95.get(len(gaps) - 1, 1.96)
        half = quantile * statistics.stdev(gaps) / math.sqrt(len(gaps))
    return Difference(method, statistics.fmean(gaps), half)
