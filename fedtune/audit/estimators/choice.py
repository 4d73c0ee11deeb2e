"""Ways to pay for having chosen a threshold: split the error over a fixed grid, or choose on half of the canaries."""

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Literal

from fedtune.audit.estimators.guesses import Guesses, grid, guess
from fedtune.audit.estimators.scores import Scores

Choice = Literal["grid", "split"]
Statement = Callable[[Guesses, float], float]
"""ε at a significance level, from guesses whose number was fixed beforehand."""


def best_on_grid(scores: Scores, alpha: float, statement: Statement) -> float:
    """The largest ε over the grid, each at `alpha` over the grid's size (Bonferroni): all hold together."""
    tried = grid(len(scores))
    return max(statement(guess(scores, calls), alpha / len(tried)) for calls in tried)


def best_by_split(scores: Scores, alpha: float, statement: Statement) -> float:
    """Choose what to call on one half of the canaries, state ε from the other at the whole `alpha`.

    The chosen half is public by then, which a mechanism's guarantee for the other half allows for.
    """
    first, second = scores.halves()
    if not len(second):
        return 0.0
    calls = max(grid(len(first)), key=lambda calls: statement(guess(first, calls), alpha))
    return statement(guess(second, calls), alpha)


CHOICES: Mapping[Choice, Callable[[Scores, float, Statement], float]] = MappingProxyType(
    {"grid": best_on_grid, "split": best_by_split}
)
