"""Auditing f-differential privacy in one run (Mahloujifar, Melis and Chaudhuri 2024, arXiv 2410.22235)."""

from collections.abc import Callable

from fedtune.audit.estimators.bound import Bound, check_levels
from fedtune.audit.estimators.choice import CHOICES, Choice
from fedtune.audit.estimators.guesses import Guesses, grid, guess
from fedtune.audit.estimators.scores import Scores
from fedtune.audit.estimators.search import largest_rejected
from fedtune.audit.estimators.tradeoff import Tradeoff, approximate, gaussian, gaussian_epsilon
from fedtune.errors import PrivacyError

SMALLEST, HALVINGS = 1e-12, 40


def rejects_curve(guesses: Guesses, f: Tradeoff, alpha: float) -> bool:
    """Is so much right, or more, less likely than `alpha` under every f-DP mechanism? The paper's audit, two outcomes.

    With pᵢ the chance of i right guesses, rᵢ = Σ_{j≥i} j·pⱼ/M and hᵢ = Σ_{j≥i} (made-j)·pⱼ/M. Flipping one canary's
    coin turns a right guess into a wrong one, so 1 - f(hᵢ₋₁) ≥ rᵢ, which forces more and more mass downwards. The mass
    is that of all guesses, made/M; where it does not suffice, the curve is refuted.
    """
    if guesses.correct == 0 or guesses.made == 0:
        return False
    canaries, made, correct = guesses.canaries, guesses.made, guesses.correct
    r, h = alpha * correct / canaries, alpha * (made - correct) / canaries
    total = made / canaries
    for i in range(correct - 1, -1, -1):
        least = max(h, f(min(1.0, max(0.0, 1 - r))))
        if least == h:  # nothing more is forced, now or further down
            break
        r, h = r + (i / (made - i)) * (least - h), least
        if r + h > total:
            return True
    return r + h > total


def curve_p_value(scores: Scores, f: Tradeoff) -> float:
    """The p-value of the claim that the run was f-DP, the grid of guesses paid for.

    Guarantees: under any f-DP mechanism it is at most α in at most a share α of runs.
    """
    tried = grid(len(scores))
    return min(1.0, len(tried) * min(_least_rejected(guess(scores, calls), f) for calls in tried))


def one_run_fdp(scores: Scores, *, delta: float, confidence: float = 0.95, choice: Choice = "grid") -> Bound:
    """A lower bound on ε from the curve of (ε, δ)-DP itself: it assumes nothing of the mechanism.

    Guarantees: as `one_run`'s. Raises PrivacyError for levels that are no probabilities.
    """
    check_levels(confidence=confidence, delta=delta)
    statement = _statement(lambda epsilon: approximate(epsilon, delta))
    return Bound(CHOICES[choice](scores, 1 - confidence, statement), delta, confidence, "one-run-f-dp")


def one_run_gaussian(scores: Scores, *, delta: float, confidence: float = 0.95, choice: Choice = "grid") -> Bound:
    """A lower bound on the ε of a Gaussian mechanism: tighter than `one_run_fdp`, and true of that family alone."""
    check_levels(confidence=confidence, delta=delta)
    if delta == 0:
        raise PrivacyError("a Gaussian mechanism has no finite epsilon at delta 0: give a delta above it")
    mu = CHOICES[choice](scores, 1 - confidence, _statement(gaussian))
    return Bound(gaussian_epsilon(mu, delta), delta, confidence, "one-run-f-dp-gaussian", "gaussian")


def _statement(family: Callable[[float], Tradeoff]) -> Callable[[Guesses, float], float]:
    def statement(guesses: Guesses, alpha: float) -> float:
        if guesses.correct <= guesses.made / 2:
            return 0.0  # no better than coins: nothing that any curve forbids
        return largest_rejected(lambda strength: rejects_curve(guesses, family(strength), alpha))

    return statement


def _least_rejected(guesses: Guesses, f: Tradeoff) -> float:
    """The smallest significance level at which the curve is refuted, rounded up; 1.0 where there is none below 1."""
    if not rejects_curve(guesses, f, 1.0 - 1e-9):
        return 1.0
    if rejects_curve(guesses, f, SMALLEST):
        return SMALLEST
    low, high = SMALLEST, 1.0 - 1e-9
    for _ in range(HALVINGS):
        middle = (low * high) ** 0.5
        low, high = (low, middle) if rejects_curve(guesses, f, middle) else (middle, high)
    return high
