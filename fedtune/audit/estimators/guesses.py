"""Guesses in one run: the highest scores are called in, the lowest out, and about the rest nothing is said."""

from dataclasses import dataclass

import numpy as np

from fedtune.audit.estimators.scores import Scores

SHARES = (1.0, 0.5, 0.25, 0.125, 0.0625)
"""Shares of the canaries to guess about. Fixed before anything is seen; each is paid for."""


@dataclass(frozen=True, slots=True)
class Guesses:
    """How an attack did on M canaries."""

    canaries: int
    made: int
    correct: int


def guess(scores: Scores, made: int) -> Guesses:
    """Call the ⌈made/2⌉ highest scores in and the ⌊made/2⌋ lowest out.

    Guarantees: how many are called what is fixed beforehand, and equal scores are told apart by name alone, so nothing
    of the coins is in the choice.
    """
    made = min(max(made, 0), len(scores))
    order = np.argsort(scores.values, kind="stable")
    out, called_in = order[: made // 2], order[len(order) - (made + 1) // 2 :]
    correct = int(np.sum(~scores.inserted[out])) + int(np.sum(scores.inserted[called_in]))
    return Guesses(len(scores), made, correct)


def grid(canaries: int) -> tuple[int, ...]:
    """How many guesses to try among so many canaries: `SHARES` of them, each number once, at least one."""
    return tuple(sorted({max(1, round(share * canaries)) for share in SHARES}))
