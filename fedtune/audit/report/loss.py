"""What the events of one participant come to: ε by each accountant, the curve, and what an attacker can do."""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

import numpy as np

from fedtune.errors import PrivacyError
from fedtune.privacy.accounting import AccountantName, Power, compose, curve_of, epsilon_of, risk_of
from fedtune.privacy.accounting.accountants import PRV_MOST
from fedtune.privacy.events import Event

BESIDE: tuple[AccountantName, ...] = ("dp-accounting", "rdp", "prv")
"""Accountants whose ε stands beside that of the loss distribution, which is the answer."""
COMPARABLE = PRV_MOST
"""ε up to which another accountant is asked; far beyond it nothing hangs on whether they agree."""
DELTAS = tuple(10.0 ** (-quarters / 4) for quarters in range(12, 41))
"""1e-3 to 1e-10, four to a decade."""


@dataclass(frozen=True, slots=True)
class Loss:
    """Everything that a report says of one composition; None for what is not finite, or not known."""

    delta: float
    epsilon: float | None
    beside: Mapping[str, float | None]
    """ε by other accountants, at the same δ."""
    mu: float | None
    """The Gaussian mechanism that shows no less (`covering_mu`)."""
    curve: tuple[tuple[float, float | None], ...]
    """(δ, ε) pairs."""
    powers: tuple[Power, ...]
    """The attack table."""
    advantage: float

    def at(self, rate: float) -> Power:
        """The row of the attack table at a rate of false alarms."""
        return next(power for power in self.powers if power.false_positive_rate == rate)


def epsilon_of_all(events: Sequence[Event], delta: float) -> float | None:
    """ε by privacy loss distributions; None where no finite one is known."""
    return _finite(compose(events).epsilon(delta))


def dearest(compositions: Iterable[tuple[Event, ...]], delta: float) -> tuple[Event, ...]:
    """Of several sums of events the one with the largest ε."""
    return max(sorted(compositions, key=repr), key=lambda events: compose(events).epsilon(delta))


def measure(events: Sequence[Event], delta: float) -> Loss:
    """All that a report says of `events` together."""
    loss = compose(events)
    risk, epsilon = risk_of(loss), loss.epsilon(delta)
    names = BESIDE if epsilon <= COMPARABLE else ()
    return Loss(
        delta=delta,
        epsilon=_finite(epsilon),
        beside=MappingProxyType({name: _beside(events, delta, name) if name in names else None for name in BESIDE}),
        mu=_finite(risk.gdp_mu),
        curve=tuple((at, _finite(epsilon)) for epsilon, at in curve_of(loss, DELTAS, ()).by_delta),
        powers=risk.powers,
        advantage=risk.advantage,
    )


def _beside(events: Sequence[Event], delta: float, name: AccountantName) -> float | None:
    try:
        with np.errstate(divide="ignore"):  # Opacus takes the logarithm of zero where nothing is sampled, and means it.
            return _finite(epsilon_of(events, delta, name))
    except PrivacyError:  # One that cannot compose these says nothing; the answer does not hang on it.
        return None


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None
