"""One line of a data set's book: what is about to be spent or was, chained to the line before by SHA-256."""

import hashlib
import json
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from fedtune.privacy.events import Event, Relation
from fedtune.privacy.plan import Trust
from fedtune.wire.messages import TaskKind


class Entry(BaseModel):
    """A `reserve`, which is spent from the moment it is written, or the `done` of an earlier one, which costs nothing.

    Holds mechanisms and names of runs, never anything of the rows: not their number, not what was drawn, no score.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    what: Literal["reserve", "done"]
    at: str
    """When, in UTC."""
    run: str
    round: int
    task: TaskKind
    client: str = ""
    """The name under which this data set took part."""
    coordinator: str = ""
    """Whom it was for: its address, where there is one."""
    unit: Literal["none", "example", "client"] = "none"
    relation: Relation = "add-or-remove-one"
    trust: Trust = "client"
    """Who adds the noise: `coordinator` means that the events are what the coordinator claims."""
    events: tuple[Event, ...] = ()
    through: int = 0
    """Under noise of the coordinator: the rounds of the run that this and earlier entries have paid for."""
    of: int | None = Field(None, ge=0)
    """Of a `done`: the position of its `reserve`."""


GENESIS = "fedtune budget book of "
_HASH = 64
_TAIL = len(',"hash":""}') + _HASH


def first_hash(dataset: str) -> str:
    """What the first line is chained to: a book cannot pass for another data set's."""
    return hashlib.sha256((GENESIS + dataset).encode()).hexdigest()


def encode(entry: Entry, previous: str) -> tuple[bytes, str]:
    """The line of an entry after the one whose hash is `previous`, and its own hash."""
    values = {"previous": previous, **entry.model_dump(mode="json", exclude_none=True)}
    body = json.dumps(values, separators=(",", ":"))
    own = _digest(body)
    return f'{body[:-1]},"hash":"{own}"}}\n'.encode(), own


def decode(line: bytes, previous: str) -> tuple[Entry, str]:
    """The entry of a line without its newline, and its hash.

    Raises ValueError where it is not, byte for byte, what was written after the line whose hash is `previous`.
    """
    text = line.decode()
    body, own = text[:-_TAIL] + "}", text[-_HASH - 2 : -2]
    if _digest(body) != own or text != f'{body[:-1]},"hash":"{own}"}}':
        raise ValueError("the line is not the one of its hash")
    values = json.loads(body)
    if values.pop("previous") != previous:
        raise ValueError("the line follows another one")
    return Entry.model_validate(values), own


def _digest(body: str) -> str:
    return hashlib.sha256(body.encode()).hexdigest()
