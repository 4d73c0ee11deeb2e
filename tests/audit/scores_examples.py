"""Scores whose truth is known: Gaussian mechanisms, randomised response, and what nothing can tell apart."""

import numpy as np

from fedtune.audit.estimators import Scores


def scores_of(values, inserted) -> Scores:
    """Named in the order they come in."""
    values, inserted = np.asarray(values, dtype=np.float64), np.asarray(inserted, dtype=bool)
    return Scores(tuple(f"c{i:06d}" for i in range(len(values))), values, inserted)


def gaussian_scores(draw: np.random.Generator, canaries: int, mu: float) -> Scores:
    """One Gaussian mechanism a canary: its outcomes are `mu` standard deviations apart."""
    coins = draw.random(canaries) < 0.5
    return scores_of(draw.normal(size=canaries) + mu * coins, coins)


def response_scores(draw: np.random.Generator, canaries: int, epsilon: float) -> Scores:
    """Randomised response on every coin: exactly ε-DP, and no mechanism tells more of it."""
    coins = draw.random(canaries) < 0.5
    truthful = draw.random(canaries) < 1 / (1 + np.exp(-epsilon))
    said = np.where(truthful, coins, ~coins)
    return scores_of(said + 1e-9 * draw.random(canaries), coins)
