"""Events as the composition counts them: equal ones together, plain Gaussians as one, not too many different ones."""

import math
from collections.abc import Collection, Iterable, Mapping

from fedtune.privacy.events import Event

Pair = tuple[float, float]
"""Noise multiplier and sampling rate."""
Group = tuple[float, float, int]
"""Noise multiplier, sampling rate, and how often."""

MOST = 1024
"""Different sampled Gaussians that are composed as they are, some 4 ms each; more are rounded."""
GRIDS = (0.0005, 0.001, 0.002, 0.004, 0.008, 0.016)
"""Relative steps of the grids that noise multipliers are rounded down to and rates up to: the finest that leaves `MOST`
groups or fewer, or the coarsest."""
FEW_RATES = 16
"""So many different rates stay as they are."""


def groups_of(events: Iterable[Event]) -> tuple[Group, ...]:
    """Sorted groups that cost at least what the events cost.

    Guarantees: exact up to `MOST` different sampled Gaussians: events of rate 1 compose to one Gaussian of noise
    multiplier (Σ count σ⁻²)^(-1/2), others by their counts. Beyond that every noise multiplier is taken less and every
    rate more by at most `rounding` of itself, and less noise or likelier sampling never costs less.
    """
    counts: dict[Pair, int] = {}
    for event in events:
        key = (event.noise_multiplier, event.sampling_rate)
        counts[key] = counts.get(key, 0) + event.count
    precision = math.fsum(count / sigma**2 for (sigma, rate), count in counts.items() if rate == 1)
    plain = [(1 / math.sqrt(precision), 1.0, 1)] if precision else []
    sampled = _rounded({(sigma, rate): count for (sigma, rate), count in counts.items() if rate < 1})
    return tuple(sorted([(sigma, rate, count) for (sigma, rate), count in sampled.items()] + plain))


def rounding(pairs: Collection[Pair]) -> float:
    """How far, relatively, these pairs of noise multiplier and rate are rounded at most: 0 where there are few."""
    return _rounded_on(pairs)[0]


def _rounded(counts: Mapping[Pair, int]) -> dict[Pair, int]:
    rounded: dict[Pair, int] = {}
    for pair, on in _rounded_on(counts)[1].items():
        rounded[on] = rounded.get(on, 0) + counts[pair]
    return rounded


def _rounded_on(pairs: Collection[Pair]) -> tuple[float, dict[Pair, Pair]]:
    """The grid, 0 for none, and where each pair lies on it."""
    grid, rounded = 0.0, {pair: pair for pair in pairs}
    few = len({rate for _, rate in pairs}) <= FEW_RATES
    for grid in GRIDS if len(rounded) > MOST else ():
        rounded = {(sigma, rate): (_down(grid, sigma), rate if few else _up(grid, rate)) for sigma, rate in pairs}
        if len(set(rounded.values())) <= MOST:
            break
    return grid, rounded


def _down(grid: float, value: float) -> float:
    """To a power of 1 + grid."""
    ratio = math.log1p(grid)
    return min(value, math.exp(math.floor(math.log(value) / ratio) * ratio))


def _up(grid: float, rate: float) -> float:
    ratio = math.log1p(grid)
    return min(1.0, max(rate, math.exp(math.ceil(math.log(rate) / ratio) * ratio)))
