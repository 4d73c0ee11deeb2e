"""What an attacker can make of a composed loss: the power of the best test for one unit's presence."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from fedtune.privacy.accounting.composition import compose
from fedtune.privacy.accounting.gaussian import covering_mu
from fedtune.privacy.accounting.loss import Loss, Side
from fedtune.privacy.events import Event

FALSE_ALARMS = (0.001, 0.01, 0.1)


@dataclass(frozen=True, slots=True)
class Power:
    """The most that a test with so many false alarms can do, whoever makes it and whatever else they know."""

    false_positive_rate: float
    true_positive_rate: float
    """The share of members it finds at most (of runs with the unit, those that it calls so)."""
    posterior: float
    """From a prior belief of one half: the share of its alarms that are right, at most."""


@dataclass(frozen=True, slots=True)
class Risk:
    """The attack table of a composition of events."""

    powers: tuple[Power, ...]
    advantage: float
    """The greatest difference of true and false positive rate: the total variation distance, δ at ε = 0."""
    accuracy: float
    """How often the best guess is right at most, from a prior belief of one half."""
    gdp_mu: float
    """`covering_mu`: the Gaussian mechanism that shows no less, down to δ = 1e-12."""


def risk(events: Sequence[Event]) -> Risk:
    """What the best test of one unit's presence can do after `events`, from their exact trade-off function."""
    return risk_of(compose(events))


def risk_of(loss: Loss) -> Risk:
    """`risk` of what is already composed."""
    advantage = loss.delta(0.0)
    powers = tuple(_power(loss, rate) for rate in FALSE_ALARMS)
    return Risk(powers, advantage, (1 + advantage) / 2, covering_mu(loss))


def _power(loss: Loss, rate: float) -> Power:
    found = 1 - trade_off(loss, rate)
    return Power(rate, found, found / (found + rate))


def trade_off(loss: Loss, rate: float) -> float:
    """f: the least share of missed members of any test with so many false alarms (f-DP, arXiv 1905.02383).

    The worse of the two tests: whether the unit is there against that it is not, and the reverse. Guarantees: a
    lower bound, of the composed events themselves and not of a Gaussian near them.
    """
    removed, added = loss.removed, loss.added
    return max(0.0, min(_missed(removed, added, rate), _missed(added, removed, rate)))


def _missed(side: Side, back: Side, rate: float) -> float:
    # 1 - δ(ε) - e^ε α, of all real ε: below zero by the other direction's δ. It is concave between the grid's points,
    # where δ is a chord in e^ε, so that its maximum is at one of them or at zero.
    ahead = side.epsilons > 0
    with np.errstate(over="ignore"):
        few = 1 - side.deltas[ahead] - np.exp(side.epsilons[ahead]) * rate
        beyond = back.epsilons > 0
        many = np.exp(-back.epsilons[beyond]) * (1 - back.deltas[beyond] - rate)
    at_zero = 1 - max(side.delta(0.0), back.delta(0.0)) - rate
    return float(max(few.max(initial=0.0), many.max(initial=0.0), at_zero))
