"""The run as its ledger tells it: what was promised, what was charged to whom, and how each charge ended."""

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Literal

from pydantic import ValidationError

from fedtune.audit.ledger.bodies import AbortBody, CloseBody, CommitBody, Drawn, OpenBody, ReserveBody
from fedtune.audit.ledger.entry import Entry
from fedtune.audit.ledger.read import Ledger
from fedtune.errors import PrivacyError
from fedtune.privacy.events import Event
from fedtune.recipe import Recipe

Ending = Literal["committed", "aborted", "open"]


@dataclass(frozen=True, slots=True)
class Charge:
    """One reservation, and how it ended; spent in any case."""

    seq: int
    round: int
    what: str
    events: tuple[Event, ...]
    participants: tuple[str, ...]
    """Pseudonyms of who is charged; empty where everybody is."""
    drawn: Drawn | None
    ending: Ending = "open"
    outcomes: Mapping[str, str] = field(default_factory=dict)
    """Pseudonym to outcome, of a committed charge that names its participants."""
    state_digest: str = ""
    reason: str = ""


@dataclass(frozen=True, slots=True)
class History:
    """Everything that a ledger says of a run."""

    ledger: Ledger
    recipe: Recipe
    charges: tuple[Charge, ...]

    @property
    def opened(self) -> OpenBody:
        """The first entry."""
        return self.ledger.opened

    @property
    def closed(self) -> CloseBody | None:
        """How the run ended; None while it goes on."""
        body = self.ledger.entries[-1].body
        return body if isinstance(body, CloseBody) else None

    def of(self, what: str, *endings: Ending) -> tuple[Charge, ...]:
        """The charges of one kind, or those of them that ended so."""
        return tuple(c for c in self.charges if c.what == what and (not endings or c.ending in endings))


def read_history(ledger: Ledger) -> History:
    """What a ledger tells that was read whole; raises PrivacyError where its recipe is of another version."""
    return History(ledger, _recipe(ledger.opened), tuple(_charges(ledger.entries)))


def _charges(entries: Iterable[Entry]) -> list[Charge]:
    """In order; reading the ledger has made sure that each end belongs to the reservation before it."""
    charges: list[Charge] = []
    for entry in entries:
        body = entry.body
        if isinstance(body, ReserveBody):
            charges.append(Charge(entry.seq, body.round, body.what, body.events, body.participants, body.drawn))
        elif isinstance(body, CommitBody):
            charges[-1] = replace(
                charges[-1], ending="committed", outcomes=body.outcomes, state_digest=body.state_digest
            )
        elif isinstance(body, AbortBody):
            charges[-1] = replace(charges[-1], ending="aborted", reason=body.reason)
    return charges


def _recipe(opened: OpenBody) -> Recipe:
    try:
        # As JSON: lists are read as the tuples that the recipe holds.
        return Recipe.model_validate_json(json.dumps(opened.recipe))
    except ValidationError as error:
        raise PrivacyError(
            "the recipe in the ledger is not one of this version; audit the run with the fedtune that wrote it"
        ) from error
