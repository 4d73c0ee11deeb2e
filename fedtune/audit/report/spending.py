"""Who was charged what: the events of each participant, over every round, committed or not."""

from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

from fedtune.audit.report.history import Charge, History
from fedtune.privacy.events import Event, grouped
from fedtune.privacy.plan import Plan


@dataclass(frozen=True, slots=True)
class Participant:
    """What one participant has been charged."""

    pseudonym: str
    events: tuple[Event, ...]
    """Grouped, over the whole run."""
    asked: int
    """Training rounds that it was charged for or answered in."""
    counted: int
    """Training rounds whose result holds its update."""
    aborted: int
    """Training rounds that came to nothing and are spent all the same."""


@dataclass(frozen=True, slots=True)
class Spending:
    """Every composition of the run."""

    everyone: tuple[Event, ...]
    """What each participant is charged whoever took part: all of it where the coordinator hides clients."""
    participants: tuple[Participant, ...]
    """By pseudonym."""

    def compositions(self) -> dict[tuple[Event, ...], int]:
        """How many participants have been charged exactly these events; 0 where nobody is named."""
        counts = Counter(p.events for p in self.participants)
        return dict(counts) if counts else {self.everyone: 0}


def spending_of(history: History) -> Spending:
    """The events of each participant: those charged to everybody and those charged to it.

    Guarantees: every reservation counts, however it ended.
    """
    everyone = [event for charge in history.charges if not charge.participants for event in charge.events]
    by_name: dict[str, list[Charge]] = defaultdict(list)
    for charge in history.charges:
        for name in {*charge.participants, *charge.outcomes, *(charge.drawn.asked if charge.drawn else ())}:
            by_name[name].append(charge)
    named = tuple(_participant(name, charges, everyone) for name, charges in sorted(by_name.items()))
    return Spending(grouped(everyone), named)


def may_name(plan: Plan) -> bool:
    """May a report say who was in which round? Not where the privacy rests on nobody knowing who was drawn."""
    return not (plan.sampler == "poisson-clients" and plan.sampling_rate < 1)


def _participant(name: str, charges: Sequence[Charge], everyone: Sequence[Event]) -> Participant:
    own = [event for charge in charges if charge.participants for event in charge.events]
    training = [charge for charge in charges if charge.what == "train"]
    return Participant(
        name,
        grouped((*everyone, *own)),
        asked=len(training),
        counted=sum(charge.outcomes.get(name) == "ok" for charge in training),
        aborted=sum(charge.ending != "committed" for charge in training),
    )
