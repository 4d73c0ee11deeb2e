"""Who has spent what, by the reservations alone: what came of them changes nothing."""

from collections.abc import Iterable

from fedtune.audit.ledger.bodies import ReserveBody
from fedtune.privacy.events import Event, grouped


class Tally:
    """Adds up mechanism events, of everybody and of each who is named."""

    def __init__(self) -> None:
        self._everyone: tuple[Event, ...] = ()
        self._each: dict[str, tuple[Event, ...]] = {}

    def add(self, reserved: ReserveBody) -> None:
        """Charge a reservation to its participants, or to everybody where it names none."""
        if not reserved.participants:
            self._everyone = grouped((*self._everyone, *reserved.events))
        for name in reserved.participants:
            self._each[name] = grouped((*self._each.get(name, ()), *reserved.events))

    @property
    def everyone(self) -> tuple[Event, ...]:
        """What is charged to every enrolled client, named or not."""
        return self._everyone

    @property
    def names(self) -> tuple[str, ...]:
        """The pseudonyms that are charged by name, sorted."""
        return tuple(sorted(self._each))

    def of(self, pseudonym: str) -> tuple[Event, ...]:
        """All that one participant has spent; what everybody has where it was never named."""
        return grouped((*self._everyone, *self._each.get(pseudonym, ())))

    def histories(self) -> tuple[tuple[Event, ...], ...]:
        """The different sums that somebody has spent: an accountant need look at these alone."""
        sums = {self._everyone, *(self.of(name) for name in self._each)}
        return tuple(sorted(sums, key=lambda events: [event.model_dump_json() for event in events]))


def tally(reservations: Iterable[ReserveBody]) -> Tally:
    """The sum of these reservations."""
    made = Tally()
    for reserved in reservations:
        made.add(reserved)
    return made
