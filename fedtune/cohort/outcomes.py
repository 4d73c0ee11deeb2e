"""Results and errors, client after client: an error is raised at its client, and the next one can be asked for."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from fedtune.training.base import Assignment, LocalResult

Outcome = LocalResult | Exception
"""What became of one client's share."""


@dataclass(frozen=True, slots=True)
class Outcomes(Iterator[LocalResult]):
    """The results among some outcomes; where there is an error `next` raises it, once."""

    outcomes: Iterator[Outcome]

    def __next__(self) -> LocalResult:
        outcome = next(self.outcomes)
        if isinstance(outcome, Exception):
            raise outcome
        return outcome


def attempt(train: Callable[[Assignment], LocalResult], assignment: Assignment) -> Outcome:
    """What becomes of one share."""
    try:
        return train(assignment)
    except Exception as error:
        return error
