"""Which clients of a round are handed out together, so that they can share passes over the base model."""

from collections.abc import Callable, Iterator, Sequence
from typing import Protocol

Jobs = Sequence[tuple[str, bytes]]
"""(client, task) pairs."""
Cut = Callable[[Jobs], list[Jobs]]
"""Says which jobs are handed out together, in order."""
SHARE, LARGEST = 8, 32
"""A round is dealt in eight groups at least, so that several workers have something to do; a group's size ends at 32,
where passes have long been full and a group's tensors take memory."""


class Answers(Protocol):
    """What answers tasks: a workplace, or workers that each hold one."""

    def answer_all(self, jobs: Jobs) -> Iterator[bytes]:
        """The replies of (client, task) pairs, in order."""
        ...


def group_size(clients: int) -> int:
    """How many of a round's clients are handed out together: by their number alone, never by that of workers."""
    return max(1, min(LARGEST, -(-clients // SHARE)))


def groups(jobs: Jobs) -> list[Jobs]:
    """The jobs of a round in groups of `group_size`, in order; the last may be smaller."""
    size = group_size(len(jobs))
    return [jobs[start : start + size] for start in range(0, len(jobs), size)]


def singly(jobs: Jobs) -> list[Jobs]:
    """Each job alone: for those that share nothing."""
    return [[job] for job in jobs]


class Grouped:
    """A workplace of this process that is handed the same groups as workers are: the replies are the same bytes."""

    def __init__(self, answers: Answers) -> None:
        self._answers = answers

    def answer_all(self, jobs: Jobs) -> Iterator[bytes]:
        """The replies, in order."""
        for group in groups(jobs):
            yield from self._answers.answer_all(group)
