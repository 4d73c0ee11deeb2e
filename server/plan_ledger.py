"""What a privacy ledger adds to the bytes of a run's tasks: a head in each, and so many links of 32 bytes to it."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fedtune.audit.ledger import Offer
from fedtune.audit.ledger.head import Head
from fedtune.privacy.plan import Plan
from server.books import Books
from server.plan_schedule import Schedule

LINK_BYTES = 32
Floats = NDArray[np.float64]


class ShownBooks(Books):
    """Books that show the head of a ledger with one link to it, to whoever asks."""

    def offer(self, since: int) -> Offer:
        """An offer as long as those of a run, but for its number of links."""
        head = Head(public_key="0" * 64, seq=100, hash="0" * 64, signature="0" * 128)
        return Offer(head=head, since=99, links=(bytes(LINK_BYTES),))


@dataclass(frozen=True, slots=True)
class Links:
    """How many links tasks carry in the mean, and how many clients are ever asked."""

    first: float
    """To a client that was never asked before: the ledger from its beginning."""
    later: float
    """To a client that was asked before: from the oldest entry that any known client of the round has."""
    evaluation: float
    """In an evaluation, to the same."""
    newcomers: float
    """Clients that are asked at least once."""


@dataclass(frozen=True, slots=True)
class Tasks:
    """The bytes of a client's first task (and of the one for its gradients), of a later one, and of an evaluation."""

    first: int
    later: int
    evaluation: int

    def with_links(self, links: Links) -> "Tasks":
        """With so many links to the ledger's head, where the tasks were measured with one."""
        return Tasks(
            self.first + round(LINK_BYTES * (links.first - 1)),
            self.later + round(LINK_BYTES * (links.later - 1)),
            self.evaluation + round(LINK_BYTES * (links.evaluation - 1)),
        )


def links_of(plan: Plan, schedule: Schedule) -> Links:
    """The means over a run without crashes.

    Whoever answers knows the ledger up to the reservation that its task came with; each reservation is followed by its
    end. Exact where everybody is asked; clients drawn at random are taken as independent; turns come round after
    `plan.separation`.
    """
    opened = 1 + 2 * bool(plan.start_events) + 2 * bool(plan.run_events)
    if plan.sampler == "separated":
        first = [opened + 2 * round_ + 1 for round_ in range(min(plan.separation, plan.rounds))]
        asked = schedule.population * len(first) / plan.separation
        return Links(float(np.mean(first)), 2.0 * plan.separation, 0.0, asked)
    return _walk(schedule, opened)


def _walk(schedule: Schedule, opened: int) -> Links:
    """Round by round: how likely a client's last known entry is which."""
    known = np.zeros(opened + 2 * (schedule.rounds + len(schedule.evaluated)) + 1)
    first, later, evaluation = _Mean(), _Mean(), _Mean()
    population, reserved = schedule.population, opened
    trained, scored = schedule.clients / population, schedule.scored / population
    for round_ in range(schedule.rounds + 1):
        kinds = ((trained if round_ else 0.0, later), (scored if round_ in schedule.evaluated else 0.0, evaluation))
        for asked, mean in kinds:
            if not asked:
                continue
            there = float(known.sum())
            first.add(asked * (1 - there), reserved + 1)
            if there:
                mean.add(asked * there, reserved - _oldest(known, asked, population))
            known *= 1 - asked
            known[reserved] += asked
            reserved += 2
    return Links(first.value(2.0), later.value(2.0), evaluation.value(2.0), population * float(known.sum()))


def _oldest(known: Floats, asked: float, population: int) -> float:
    """The oldest entry that an asked client, or any that is asked with it, has: the mean over those that have one."""
    up_to = np.cumsum(known)
    none_so_old = (1 - up_to / up_to[-1]) * (1 - asked * up_to) ** (population - 1)
    return float(-np.diff(none_so_old, prepend=1.0) @ np.arange(len(known)))


class _Mean:
    """A weighted mean."""

    def __init__(self) -> None:
        self._sum = self._weight = 0.0

    def add(self, weight: float, value: float) -> None:
        self._sum += weight * value
        self._weight += weight

    def value(self, otherwise: float) -> float:
        return self._sum / self._weight if self._weight else otherwise
