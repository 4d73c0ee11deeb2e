"""Single random numbers of (run seed, purpose, round, client), where a generator would cost more than the number."""

import math
from statistics import NormalDist

from fedtune.seeds import derive_seed

_BITS = 52  # half a step more still fits a float, so that neither 0 nor 1 is ever drawn
_NORMAL = NormalDist()


def uniform(seed: int, purpose: str, *, round_: int = 0, client: str = "") -> float:
    """A number between 0 and 1, neither included."""
    return ((derive_seed(seed, purpose, round_=round_, client=client) >> (63 - _BITS)) + 0.5) * 2.0**-_BITS


def log_normal(spread: float, seed: int, purpose: str, *, round_: int = 0, client: str = "") -> float:
    """A factor of median 1 whose logarithm has the standard deviation `spread`; 1 where that is 0."""
    if not spread:
        return 1.0
    return math.exp(spread * _NORMAL.inv_cdf(uniform(seed, purpose, round_=round_, client=client)))
