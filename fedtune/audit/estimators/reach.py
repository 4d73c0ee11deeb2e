"""How far an audit can see: what a perfect attack on so many canaries would show."""

import numpy as np

from fedtune.audit.estimators.one_run_fdp import one_run_fdp
from fedtune.audit.estimators.scores import Scores


def reach(canaries: int, *, delta: float, confidence: float) -> float:
    """The bound of an attack that guesses every coin; no audit of so many canaries shows a larger ε.

    A claim above it cannot be refuted by a bound, however bad the mechanism is: ask for more canaries.
    """
    coins = np.arange(canaries) % 2 == 0
    names = tuple(f"{position:09d}" for position in range(canaries))
    return one_run_fdp(Scores(names, coins.astype(np.float64), coins), delta=delta, confidence=confidence).epsilon
