"""`run.json`: which run this is and how far it is."""

import secrets
from datetime import UTC, datetime
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

Status = Literal["running", "finished", "stopped", "failed"]


def now() -> str:
    """This moment in UTC, ISO 8601, to the second."""
    return datetime.now(UTC).isoformat(timespec="seconds")


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Resumption(_Frozen):
    """One time that the run was taken up again."""

    at: str
    after_round: int
    """The last round that counts from before."""
    changes: dict[str, str] = {}
    """What is another version or machine than at the start, as `old → new`."""


class RunInfo(_Frozen):
    """The run's identity and state."""

    format: Literal[1] = 1
    id: str = Field(default_factory=lambda: secrets.token_hex(16))
    """128 random bits: updates made for another run are told apart by it."""
    name: str
    status: Status = "running"
    reason: str = ""
    """One sentence on why the run stopped or failed."""
    started_at: str = Field(default_factory=now)
    ended_at: str = ""
    model_fingerprint: str = ""
    facts: dict[str, str | int | float] = {}
    """Figures worth showing, by the words to show: `trainable parameters`, `clients`, `test rows`, …"""
    resumptions: tuple[Resumption, ...] = ()
