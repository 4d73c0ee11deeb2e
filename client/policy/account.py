"""What the entries of a book come to: one ε at the owner's own δ, and whose presence it is about."""

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from client.policy.entry import Entry
from fedtune.privacy.events import Event, grouped

EpsilonOf = Callable[[Sequence[Event], float], float]
"""ε of events composed, at δ: `fedtune.privacy.accounting.epsilon_of`."""

ROW, CLIENT, EXCHANGED = (
    "one row there or not",
    "this client there or not",
    "this client's rows as they are or any others",
)
"""What an ε says cannot be told apart, in words."""
_CLOSE, _MOST = 1.001, 50.0


@dataclass(frozen=True, slots=True)
class Spent:
    """An ε, and what it is about."""

    epsilon: float
    """Infinite where no finite one can be shown."""
    delta: float
    about: str
    unprotected: int = 0
    """Tasks without any privacy, which this ε leaves out."""


def spent(entries: Iterable[Entry], delta: float, epsilon_of: EpsilonOf | None = None) -> Spent:
    """What all reservations among `entries` come to together.

    Three kinds of events compose in one accountant only among themselves:

    - rows (DP-SGD in the client): one row there or not;
    - local noise on whole updates: any two updates hidden from each other, which one row more or less is a case of, so
      they compose with rows as they are;
    - noise of the coordinator, for one client there or not. A changed row is one client gone and another come: twice
      its ε, at δ (1 + e^ε) (group privacy of two).

    Where there is only the last kind, its own ε is given. Where it meets the others, each half has δ/2 and the two add
    up (basic composition, which holds for mechanisms that take turns: arXiv 2207.08335).

    Guarantees: more entries never make it less (within 0.1 % where the third kind meets the others).
    """
    paid = [entry for entry in entries if entry.what == "reserve"]
    central = _events(paid, lambda e: e.unit == "client" and e.relation == "add-or-remove-one")
    direct = _events(paid, lambda e: e.unit == "example" or e.relation == "replace-one")
    rows = any(entry.unit == "example" for entry in paid if entry.events)
    unprotected = sum(entry.unit == "none" for entry in paid)
    find = epsilon_of or _accountant()
    if central and direct:
        total = find(direct, delta / 2) + _exchanged(central, delta / 2, find)
        return Spent(total, delta, ROW if rows else EXCHANGED, unprotected)
    about = CLIENT if central else ROW if rows or not direct else EXCHANGED
    events = central or direct
    return Spent(find(events, delta) if events else 0.0, delta, about, unprotected)


def _events(entries: Iterable[Entry], belongs: Callable[[Entry], bool]) -> tuple[Event, ...]:
    return grouped(event for entry in entries if entry.unit != "none" and belongs(entry) for event in entry.events)


def _exchanged(events: Sequence[Event], delta: float, find: EpsilonOf) -> float:
    """ε of one client exchanged for another, from what one client more or less costs: 2ε at δ = δ₁ (1 + e^ε)."""
    epsilon = 0.0
    while epsilon < _MOST:
        found = find(events, delta / (1 + math.exp(epsilon)))
        if found <= epsilon:
            return 2 * found
        epsilon = found * _CLOSE
    return math.inf


def _accountant() -> EpsilonOf:
    from fedtune.privacy.accounting import epsilon_of

    return epsilon_of
