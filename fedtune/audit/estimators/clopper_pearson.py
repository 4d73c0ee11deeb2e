"""The classic audit: exact binomial intervals on hits and false alarms at a threshold (arXiv 2101.04535)."""

import math
from collections.abc import Sequence

import numpy as np
from scipy.stats import beta

from fedtune.audit.estimators.bound import Bound, check_levels
from fedtune.audit.estimators.scores import Scores
from fedtune.errors import PrivacyError

QUANTILES = (0.5, 0.75, 0.9, 0.95, 0.99)
"""Of the chosen half's scores that were left out: the thresholds that a split tries."""


def lower_limit(successes: int, trials: int, alpha: float) -> float:
    """The exact one-sided lower limit of a binomial share (Clopper and Pearson 1934); 0.0 without successes."""
    return float(beta.ppf(alpha, successes, trials - successes + 1)) if successes else 0.0


def upper_limit(successes: int, trials: int, alpha: float) -> float:
    """The exact one-sided upper limit of a binomial share; 1.0 where all are successes."""
    return float(beta.ppf(1 - alpha, successes + 1, trials - successes)) if successes < trials else 1.0


def epsilon_from_counts(hits: tuple[int, int], alarms: tuple[int, int], *, delta: float, alpha: float) -> float:
    """ε from (hits, canaries in) and (false alarms, canaries out), each limit at α/2.

    Any (ε, δ)-DP mechanism has TPR ≤ e^ε·FPR + δ and TNR ≤ e^ε·FNR + δ; both are read off the same two limits.
    """
    hit, alarm = lower_limit(*hits, alpha / 2), upper_limit(*alarms, alpha / 2)
    return max(0.0, _log_ratio(hit - delta, alarm), _log_ratio(1 - alarm - delta, 1 - hit))


def clopper_pearson(
    scores: Scores, *, delta: float, confidence: float = 0.95, thresholds: Sequence[float] | None = None
) -> Bound:
    """A lower bound on ε where each score is a trial of its own, as with one canary a run.

    `thresholds` must have been fixed before the scores were seen: the error is split over them. Without, half of the
    canaries choose one and the other half concludes. Scores of canaries that shared one run may depend on each other,
    which these intervals do not cover: `one_run` does. Raises PrivacyError for levels that are no probabilities.
    """
    check_levels(confidence=confidence, delta=delta)
    alpha = 1 - confidence
    if thresholds is not None:
        if not thresholds:
            raise PrivacyError("clopper_pearson needs at least one threshold")
        epsilon = max(_at(scores, t, delta, alpha / len(thresholds)) for t in thresholds)
    else:
        epsilon = _by_split(scores, delta, alpha)
    return Bound(epsilon, delta, confidence, "clopper-pearson", "independent scores")


def _by_split(scores: Scores, delta: float, alpha: float) -> float:
    first, second = scores.halves()
    if not len(first.of_others) or not len(second):
        return 0.0
    tried = [float(t) for t in np.quantile(first.of_others, QUANTILES)]
    return _at(second, max(tried, key=lambda t: _at(first, t, delta, alpha)), delta, alpha)


def _at(scores: Scores, threshold: float, delta: float, alpha: float) -> float:
    hits, alarms = scores.of_inserted > threshold, scores.of_others > threshold
    return epsilon_from_counts((int(hits.sum()), len(hits)), (int(alarms.sum()), len(alarms)), delta=delta, alpha=alpha)


def _log_ratio(above: float, below: float) -> float:
    return math.log(above / below) if above > 0 and below > 0 else 0.0
