"""A cohort, cut into windows of a few clients and lots that train together, becomes one outcome after the other."""

from collections.abc import Callable, Iterator, Sequence

from fedtune.cohort.outcomes import Outcome
from fedtune.training.base import Assignment

Cut = Callable[[Sequence[Assignment]], list[list[int]]]
"""The positions of those that can share passes, lot by lot; who is in none is a lot of its own."""
Train = Callable[[Sequence[Assignment]], list[Outcome]]
"""What becomes of a lot."""


def in_windows(cohort: Sequence[Assignment], most: int, cut: Cut, train: Train) -> Iterator[Outcome]:
    """The outcomes in the cohort's order; a lot is trained when its first one is asked for, `most` clients together."""
    for start in range(0, len(cohort), most):
        window = cohort[start : start + most]
        lot_of = {position: lot for lot in cut(window) for position in lot}
        known: dict[int, Outcome] = {}
        for position in range(len(window)):
            if position not in known:
                lot = lot_of.get(position, [position])
                known |= zip(lot, train([window[other] for other in lot]), strict=True)
            yield known.pop(position)
