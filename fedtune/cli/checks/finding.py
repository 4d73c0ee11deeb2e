"""One line of a check-up: what was looked at, how it is, and what to do about it."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

State = Literal["good", "absent", "problem"]
"""`absent` is something that only some recipes need; a `problem` will stop any run."""


@dataclass(frozen=True, slots=True)
class Finding:
    """A fact about this machine."""

    name: str
    state: State
    detail: str
    """What a person reads; of a problem, what to change."""
    value: str | int | float | bool | None = None
    """The bare figure, for programs."""


def healthy(findings: Iterable[Finding]) -> bool:
    """Is there no problem among `findings`?"""
    return all(finding.state != "problem" for finding in findings)


def gib(count: int) -> str:
    """Bytes for a person."""
    return f"{count / 2**30:.1f} GiB"
