"""Guesses in one run: the highest scores are called in, the lowest out, and about the rest nothing is said."""

from dataclasses import dataclass

import numpy as np

from fedtune.audit.estimators.scores import Scores

BOTH_WAYS = (1.0, 0.5, 0.25, 0.125, 0.0625)
"""Shares of the canaries to guess about, half of them called in and half called out."""
IN_ALONE = (0.25, 0.125, 0.0625)
"""Shares of the canaries to call in, with none called out: where rows are sampled, a low score says little.

Both lists are fixed before anything is seen, and each entry is paid for.
"""


@dataclass(frozen=True, slots=True)
class Guesses:
    """How an attack did on M canaries."""

    canaries: int
    made: int
    correct: int


@dataclass(frozen=True, slots=True)
class Calls:
    """How many canaries to call what."""

    called_in: int
    called_out: int

    def of(self, canaries: int) -> "Calls":
        """As many of `canaries` at most."""
        called_in = min(self.called_in, canaries)
        return Calls(called_in, min(self.called_out, canaries - called_in))


def guess(scores: Scores, calls: Calls) -> Guesses:
    """Call the highest scores in and the lowest out.

    Guarantees: how many are called what is fixed beforehand, and equal scores are told apart by name alone, so nothing
    of the coins is in the choice.
    """
    calls = calls.of(len(scores))
    order = np.argsort(scores.values, kind="stable")
    out, called_in = order[: calls.called_out], order[len(order) - calls.called_in :]
    correct = int(np.sum(~scores.inserted[out])) + int(np.sum(scores.inserted[called_in]))
    return Guesses(len(scores), calls.called_in + calls.called_out, correct)


def grid(canaries: int) -> tuple[Calls, ...]:
    """What to try among so many canaries: each different entry of the two lists, with at least one guess."""
    both = [max(1, round(share * canaries)) for share in BOTH_WAYS]
    alone = [max(1, round(share * canaries)) for share in IN_ALONE]
    calls = [Calls((made + 1) // 2, made // 2) for made in both] + [Calls(made, 0) for made in alone]
    return tuple(dict.fromkeys(calls))
