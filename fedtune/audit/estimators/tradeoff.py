"""Trade-off curves: the least rate of misses that any test of a mechanism can have at a rate of false alarms."""

import math
from collections.abc import Callable, Iterable
from statistics import NormalDist

import numpy as np
from scipy.optimize import brentq

from fedtune.errors import PrivacyError

Tradeoff = Callable[[float], float]
"""f: [0, 1] -> [0, 1], convex and falling: misses at a rate of false alarms (arXiv 1905.02383)."""
_NORMAL = NormalDist()


def approximate(epsilon: float, delta: float) -> Tradeoff:
    """The curve of (ε, δ)-DP itself, the least private mechanism that keeps it (arXiv 1905.02383)."""
    up, down = math.exp(epsilon), math.exp(-epsilon)

    def f(x: float) -> float:
        return max(0.0, 1 - delta - up * x, down * (1 - delta - x))

    return f


def gaussian(mu: float) -> Tradeoff:
    """The curve of a Gaussian mechanism whose outcomes are `mu` standard deviations apart."""

    def f(x: float) -> float:
        if x <= 0 or x >= 1:
            return 1.0 if x <= 0 else 0.0
        return _cdf(-_NORMAL.inv_cdf(x) - mu)

    return f


def from_profile(points: Iterable[tuple[float, float]]) -> Tradeoff:
    """The curve that (ε, δ) pairs of one mechanism, each of which it keeps, imply together.

    Guarantees: nowhere above the mechanism's own curve, however few the pairs: what is rejected by it is rejected
    rightly. Raises PrivacyError without pairs.
    """
    pairs = np.array(list(points), dtype=np.float64).reshape(-1, 2)
    if not len(pairs):
        raise PrivacyError("a trade-off curve needs at least one pair of epsilon and delta")
    up, kept = np.exp(pairs[:, 0]), 1 - pairs[:, 1]

    def f(x: float) -> float:
        return max(0.0, float(np.max(kept - up * x)), float(np.max((kept - x) / up)))

    return f


def gaussian_delta(mu: float, epsilon: float) -> float:
    """δ(ε) of a Gaussian mechanism (arXiv 1805.06530, theorem 8)."""
    if mu <= 0:
        return 0.0
    return _cdf(-epsilon / mu + mu / 2) - math.exp(epsilon) * _cdf(-epsilon / mu - mu / 2)


def gaussian_epsilon(mu: float, delta: float) -> float:
    """The least ε ≥ 0 that a Gaussian mechanism keeps at `delta` > 0."""
    if gaussian_delta(mu, 0.0) <= delta:
        return 0.0
    high = 1.0
    while gaussian_delta(mu, high) > delta:
        high *= 2
    return float(brentq(lambda epsilon: gaussian_delta(mu, epsilon) - delta, 0.0, high, xtol=1e-10))


def _cdf(x: float) -> float:
    """The normal distribution function, to full relative precision in its lower tail, which e^ε magnifies."""
    return math.erfc(-x / math.sqrt(2)) / 2
