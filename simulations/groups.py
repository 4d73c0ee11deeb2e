"""Which clients of a round are handed out together, so that they can share passes over the base model."""

import math
import os
from collections.abc import Callable, Iterator, Sequence
from typing import Protocol

from fedtune.recipe import Recipe

Jobs = Sequence[tuple[str, bytes]]
"""(client, task) pairs."""
Cut = Callable[[Jobs], list[Jobs]]
"""Says which jobs are handed out together, in order."""
AT_ONCE, SHARE = 8, 4
"""Under a virtual clock clients are worked on eight at a time, or a quarter of those that were asked together where
that is more, so that they can share passes. They are the same ones however many workers there are."""
A_CORE, LARGEST = 2, 32
"""A round is dealt in two groups a core, so that as many workers have something to do, to the end of the round. A
group's size ends at 32, where passes have long been full and a group's tensors take memory."""


class Answers(Protocol):
    """What answers tasks: a workplace, or workers that each hold one."""

    def answer_all(self, jobs: Jobs) -> Iterator[bytes]:
        """The replies of (client, task) pairs, in order."""
        ...


def cores() -> int:
    """How many cores of this machine the process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def at_once(asked: int) -> int:
    """How many clients at most are worked on at a time under a virtual clock, of so many that were asked together."""
    return max(AT_ONCE, -(-asked // SHARE))


def handed_out(recipe: Recipe, clients: float) -> int:
    """How many are handed out at a time, where a round trains so many clients or asks them to."""
    if recipe.federation.buffer:
        return 1
    asked = max(1, round(clients))
    return min(at_once(asked), asked) if recipe.simulation.active else asked


def asked_in_a_round(recipe: Recipe, clients: int) -> int:
    """How many of so many clients a round asks, where nothing but the recipe decides."""
    section = recipe.federation
    return min(math.ceil((section.clients_per_round or clients) * (1 + section.over_select)), clients)


def group_size(clients: int) -> int:
    """How many of a round's clients are handed out together: by their number and the machine, never by the workers."""
    return max(1, min(LARGEST, -(-clients // (A_CORE * cores()))))


def groups(jobs: Jobs) -> list[Jobs]:
    """The jobs of a round in groups of `group_size`, in order; the last may be smaller."""
    size = group_size(len(jobs))
    return [jobs[start : start + size] for start in range(0, len(jobs), size)]


def singly(jobs: Jobs) -> list[Jobs]:
    """Each job alone: for those that share nothing."""
    return [[job] for job in jobs]


def cut_of(recipe: Recipe) -> Cut:
    """Which jobs of a recipe share passes.

    In asynchronous rounds none do: who is at work together is not after a resume, and no byte may change by that.
    """
    return singly if recipe.federation.buffer else groups


class Grouped:
    """A workplace of this process that is handed the same groups as workers are: the replies are the same bytes."""

    def __init__(self, answers: Answers, cut: Cut = groups) -> None:
        """`cut` says which jobs are handed out together."""
        self._answers = answers
        self._cut = cut

    def answer_all(self, jobs: Jobs) -> Iterator[bytes]:
        """The replies, in order."""
        for group in self._cut(jobs):
            yield from self._answers.answer_all(group)
