"""Privacy auditing in one training run (Steinke, Nasr and Jagielski, NeurIPS 2023, arXiv 2305.08846)."""

import numpy as np
from scipy.special import bdtrc, expit

from fedtune.audit.estimators.bound import Bound, check_levels
from fedtune.audit.estimators.choice import CHOICES, Choice
from fedtune.audit.estimators.guesses import Guesses, grid, guess
from fedtune.audit.estimators.scores import Scores
from fedtune.audit.estimators.search import largest_rejected


def one_run_p_value(guesses: Guesses, epsilon: float, delta: float) -> float:
    """How likely so many right guesses are at most under (ε, δ)-DP; section 5 and the appendix's code in the paper.

    With δ = 0 the right guesses are dominated by Binomial(made, e^ε/(1+e^ε)). δ adds at most 2·canaries·δ·α, where α is
    the steepest mean rise of that distribution's mass just below what was seen.
    """
    right = float(expit(epsilon))
    if guesses.correct == 0:
        return 1.0
    tail = float(bdtrc(guesses.correct - 1, guesses.made, right))
    if delta == 0:
        return tail
    fewer = np.arange(1, guesses.correct + 1)
    tails = np.append(bdtrc(guesses.correct - 1 - fewer[:-1], guesses.made, right), 1.0)
    steepest = float(np.max((tails - tail) / fewer))
    return min(1.0, tail + 2 * guesses.canaries * delta * steepest)


def one_run(scores: Scores, *, delta: float, confidence: float = 0.95, choice: Choice = "grid") -> Bound:
    """A lower bound on ε from one run in which each canary was put in by a fair coin of its own.

    Guarantees: holds for any (ε, δ)-DP mechanism under add-or-remove-one and any way to come to the scores that is
    post-processing of what the mechanism released; scores of different canaries may depend on each other. How many
    guesses are made is paid for as `choice` says. Raises PrivacyError for levels that are no probabilities.
    """
    check_levels(confidence=confidence, delta=delta)
    alpha = 1 - confidence

    def statement(guesses: Guesses, alpha: float) -> float:
        return largest_rejected(lambda epsilon: one_run_p_value(guesses, epsilon, delta) <= alpha)

    return Bound(CHOICES[choice](scores, alpha, statement), delta, confidence, "one-run")


def one_run_against(scores: Scores, *, epsilon: float, delta: float) -> float:
    """The p-value of the claim that the run was (ε, δ)-DP, the grid of guesses paid for."""
    tried = grid(len(scores))
    return min(1.0, len(tried) * min(one_run_p_value(guess(scores, calls), epsilon, delta) for calls in tried))
