"""One-shot estimation for client-level privacy by random canary directions (Andrew et al. 2024, arXiv 2302.03098).

The published ε is computed from a normal fitted to the canaries' cosines: an estimate, which may exceed the truth. The
bound beside it knows how cosines of directions that were never used are distributed, exactly, and fits nothing.
"""

import math
from collections.abc import Mapping
from itertools import pairwise

import numpy as np
from scipy.optimize import brentq
from scipy.stats import beta, norm

from fedtune.audit.estimators.bound import Bound, Estimate, check_levels
from fedtune.audit.estimators.clopper_pearson import lower_limit
from fedtune.errors import PrivacyError

RATES = (0.1, 0.03, 0.01, 0.003, 0.001)
"""Rates of false alarms that `cosine_bound` tries; fixed beforehand, each paid for."""
LARGEST = 600.0
"""The largest ε that is looked for: e^ε has to be a number."""


def null_threshold(dimension: int, rate: float) -> float:
    """The cosine that a uniformly random direction exceeds with chance `rate` against any fixed vector.

    (1 + cos)/2 is Beta((d-1)/2, (d-1)/2) distributed.
    """
    half = (dimension - 1) / 2
    return float(2 * beta.isf(rate, half, half) - 1)


def cosine_estimate(cosines: Mapping[str, float], *, dimension: int, delta: float) -> Estimate:
    """The published ε: normals for canaries that were inserted (fitted) and for the null (mean 0, variance 1/d)."""
    values = _checked(cosines, dimension)
    check_levels(confidence=0.5, delta=delta)
    if len(values) < 2:
        raise PrivacyError("the cosine estimate needs two inserted canaries or more")
    null, seen = (0.0, 1 / math.sqrt(dimension)), (float(np.mean(values)), float(np.std(values, ddof=1)))
    return Estimate(
        epsilon=two_normals_epsilon(null, seen, delta),
        delta=delta,
        method="one-shot-cosine",
        model="cosines of the inserted canaries are independent and normal, with the mean and variance that were seen",
    )


def cosine_bound(cosines: Mapping[str, float], *, dimension: int, delta: float, confidence: float = 0.95) -> Bound:
    """A lower bound from the canaries that were inserted: hits by Clopper-Pearson, false alarms known exactly.

    The rates of false alarms are fixed beforehand and paid for. Scores of canaries that shared one run may depend on
    each other, which the interval does not cover.
    """
    check_levels(confidence=confidence, delta=delta)
    values = _checked(cosines, dimension)
    alpha = (1 - confidence) / len(RATES)
    best = 0.0
    for rate in RATES:
        hits = int(np.sum(values > null_threshold(dimension, rate)))
        share = lower_limit(hits, len(values), alpha) - delta
        best = max(best, math.log(share / rate) if share > 0 else 0.0)
    return Bound(best, delta, confidence, "one-shot-cosine-clopper-pearson", "independent scores")


def two_normals_epsilon(left: tuple[float, float], right: tuple[float, float], delta: float) -> float:
    """The least ε ≥ 0 at which two normals (mean, standard deviation) are (ε, δ)-close both ways.

    inf where it is above `LARGEST`.
    """

    def excess(epsilon: float) -> float:
        return max(_divergence(left, right, epsilon), _divergence(right, left, epsilon)) - delta

    if excess(0.0) <= 0:
        return 0.0
    if excess(LARGEST) > 0:
        return math.inf
    return float(brentq(excess, 0.0, LARGEST, xtol=1e-9))


def _divergence(p: tuple[float, float], q: tuple[float, float], epsilon: float) -> float:
    """∫ max(0, p - e^ε q) of two normal densities."""
    return sum(_mass(p, low, high, 0.0) - _mass(q, low, high, epsilon) for low, high in _where_above(p, q, epsilon))


def _where_above(p: tuple[float, float], q: tuple[float, float], epsilon: float) -> list[tuple[float, float]]:
    """Where p > e^ε q: the intervals on which log p - log q - ε = a·x² + b·x + c is positive."""
    (m1, s1), (m2, s2) = p, q
    a = 0.5 * (1 / s2**2 - 1 / s1**2)
    b = m1 / s1**2 - m2 / s2**2
    c = m2**2 / (2 * s2**2) - m1**2 / (2 * s1**2) + math.log(s2 / s1) - epsilon
    roots = sorted(float(x.real) for x in np.roots([a, b, c]) if abs(x.imag) < 1e-12)
    edges = [-math.inf, *roots, math.inf]
    between = list(pairwise(edges))
    return [(low, high) for low, high in between if _at(a, b, c, low, high) > 0]


def _at(a: float, b: float, c: float, low: float, high: float) -> float:
    """The sign of a·x² + b·x + c within an interval that holds no root of it."""
    if math.isinf(low) and math.isinf(high):
        x = 0.0
    elif math.isinf(low):
        x = high - 1.0
    elif math.isinf(high):
        x = low + 1.0
    else:
        x = (low + high) / 2
    return a * x * x + b * x + c


def _mass(normal: tuple[float, float], low: float, high: float, epsilon: float) -> float:
    """e^ε times the mass of an interval, from the tail that it is nearer to."""
    left, right = (low - normal[0]) / normal[1], (high - normal[0]) / normal[1]
    above = left + right > 0 if math.isfinite(left + right) else math.isinf(right)
    mass = norm.sf(left) - norm.sf(right) if above else norm.cdf(right) - norm.cdf(left)
    return float(math.exp(epsilon + math.log(mass))) if mass > 0 else 0.0


def _checked(cosines: Mapping[str, float], dimension: int) -> np.ndarray[tuple[int], np.dtype[np.float64]]:
    if dimension < 2:
        raise PrivacyError(f"cosines need a dimension of two or more, got {dimension}")
    if not cosines:
        raise PrivacyError("an audit needs canaries, and there are none")
    if bad := [name for name, value in cosines.items() if not -1.000001 <= value <= 1.000001]:
        raise PrivacyError(f"the score of canary {bad[0]!r} is no cosine: it must be a number from -1 to 1")
    return np.array([cosines[name] for name in sorted(cosines)], dtype=np.float64)
