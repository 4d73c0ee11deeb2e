"""The least noise that keeps a budget."""

import math
from collections.abc import Callable, Sequence
from itertools import count
from typing import NamedTuple

from fedtune.errors import PrivacyError
from fedtune.privacy.accounting.accountants import epsilon_of
from fedtune.privacy.events import Event

LEAST, MOST = 1e-2, 2.0**20
"""Noise multipliers that are tried: less is hardly noise, and where more is wanted something else spends the budget."""
PRECISION = 1e-4


def calibrate(events_for: Callable[[float], Sequence[Event]], *, epsilon: float, delta: float) -> float:
    """The least noise multiplier whose events spend `epsilon` or less: at most 1e-4 of itself above it.

    `events_for` gives the events of a noise multiplier; they must spend no more the more it is. Guarantees: ε of the
    events of what is returned was computed and is not above `epsilon`. PrivacyError where no noise is enough, as where
    events that do not depend on it spend more.
    """
    if not 0 < epsilon < math.inf:
        raise PrivacyError(f"epsilon must be more than 0 and finite, got {epsilon:g}")

    def spent(sigma: float) -> float:
        return epsilon_of(events_for(sigma), delta)

    little, enough = _bracket(spent, epsilon)
    if enough is None:
        left = spent(MOST)
        raise PrivacyError(
            f"no noise keeps epsilon = {epsilon:g} at delta = {delta:g}: ε = {left:.3g} is spent however large "
            "noise_multiplier is, by what it does not govern (initialisation, metrics, counts); raise epsilon, or give "
            "that more noise or take it out"
        )
    for turn in count():
        if enough.sigma <= little.sigma * (1 + PRECISION):
            break
        sigma = _between(little, enough, epsilon, turn)
        trial = Trial(sigma, spent(sigma))
        little, enough = (little, trial) if trial.epsilon <= epsilon else (trial, enough)
    return enough.sigma


class Trial(NamedTuple):
    """A noise multiplier and the ε that comes with it."""

    sigma: float
    epsilon: float


def _bracket(spent: Callable[[float], float], epsilon: float) -> tuple[Trial, Trial | None]:
    """Noise that does not keep the budget and noise that does: None where none does, twice the same where any does."""
    trial, factor = Trial(1.0, spent(1.0)), 2.0
    if trial.epsilon <= epsilon:
        while trial.sigma > LEAST:
            before, trial = trial, Trial(trial.sigma / factor, spent(trial.sigma / factor))
            if trial.epsilon > epsilon:
                return trial, before
        return trial, trial
    while trial.sigma < MOST:
        before, trial = trial, Trial(min(trial.sigma * factor, MOST), spent(min(trial.sigma * factor, MOST)))
        if trial.epsilon <= epsilon:
            return before, trial
        factor = min(factor * factor, 16.0)
    return trial, None


def _between(little: Trial, enough: Trial, epsilon: float, turn: int) -> float:
    """The next noise to try: where a straight line of log ε over log σ meets the budget, a little aside in turn.

    The middle of the bracket every third time, and where there is no line.
    """
    low, high = math.log(little.sigma), math.log(enough.sigma)
    if turn % 3 == 2 or math.isinf(little.epsilon) or enough.epsilon <= 0:
        return math.exp((low + high) / 2)
    fall = math.log(little.epsilon / epsilon) / math.log(little.epsilon / enough.epsilon)
    aside = PRECISION / 3 if turn % 3 == 0 else -PRECISION / 3
    least = (high - low) / 100
    return math.exp(min(max(low + fall * (high - low) + aside, low + least), high - least))
