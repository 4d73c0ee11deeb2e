"""The Gaussian mechanism of sensitivity over noise μ, in closed form, and the least μ that covers a composed loss."""

import math
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.optimize import brentq
from scipy.special import log_ndtr, ndtr, ndtri

from fedtune.privacy.accounting.loss import Loss

Floats = NDArray[np.float64]

FLOOR = 1e-12
"""δ below which a covering Gaussian need not lie above the mechanism: the rarest outcomes of all would decide."""
SLACK = 1e-15
"""Rounding of a δ near one."""
SMALLEST, GREATEST = 1e-9, 1e9
SOLVED = 1e3
"""μ up to which ε is solved for; beyond it e^ε is too coarse in doubles, and the bound is as good as exact."""
UPWARDS = 1 + 1e-9
"""How far a root is moved to the safe side."""


class Cells(NamedTuple):
    """ε and the mechanism's δ at both ends of each cell: (cells,)."""

    low: Floats
    high: Floats
    low_delta: Floats
    high_delta: Floats


def gaussian_delta(mu: float, epsilons: ArrayLike) -> Floats:
    """δ at each ε of the Gaussian mechanism, exactly (Balle and Wang, arXiv 1805.06530, theorem 8)."""
    epsilon = np.asarray(epsilons, dtype=np.float64)
    lower = np.exp(epsilon + log_ndtr(-mu / 2 - epsilon / mu))
    return np.asarray(np.maximum(ndtr(mu / 2 - epsilon / mu) - lower, 0))


def gaussian_epsilon(mu: float, delta: float) -> float:
    """The least ε >= 0 at which the Gaussian mechanism keeps `delta`, rounded up; `delta` in (0, 1), `mu` positive.

    The root of `gaussian_delta` below the ε at which its first term alone is `delta`: μ²/2 + μ·z, with z the normal
    quantile of 1 - δ. For μ above `SOLVED` it is that ε itself, which is an upper bound.
    """
    most = mu * mu / 2 - mu * float(ndtri(delta))
    if most <= 0 or float(gaussian_delta(mu, 0.0)) <= delta:
        return 0.0
    if mu > SOLVED:
        return most * UPWARDS
    root = brentq(lambda epsilon: float(gaussian_delta(mu, epsilon)) - delta, 0.0, most * UPWARDS, xtol=1e-13)
    return float(root) * UPWARDS


def covering_mu(loss: Loss) -> float:
    """The least μ, to 1e-4 of itself, whose Gaussian δ(ε) lies nowhere below that of `loss`; infinity where none does.

    Guarantees: at every ε >= 0 the events keep the greater of this Gaussian's δ and `FLOOR` (down to there they are
    μ-GDP, arXiv 1905.02383). It is read off the composed loss; the central limit theorem, which approximates
    from below as well as from above and so promises nothing, has no part in it.
    """
    if max(side.deltas[-1] for side in (loss.removed, loss.added)) > FLOOR:
        return math.inf
    cells = _cells(loss)
    if not len(cells.low):
        return 0.0
    low, high = SMALLEST, SMALLEST
    while high < GREATEST and not _covers(high, cells):
        low, high = high, high * 4
    if high >= GREATEST:
        return math.inf
    while high > low * (1 + 1e-4):
        middle = (low * high) ** 0.5
        low, high = (low, middle) if _covers(middle, cells) else (middle, high)
    return high


def _covers(mu: float, cells: Cells) -> bool:
    """Whether the Gaussian's δ is nowhere below the mechanism's, which is a chord in e^ε over each cell.

    The Gaussian's is convex in e^ε: above its tangents at both ends, which are lowest where they meet.
    """
    low, high = gaussian_delta(mu, cells.low), gaussian_delta(mu, cells.high)
    falls = -np.exp(cells.low + log_ndtr(-mu / 2 - cells.low / mu)) * np.expm1(cells.high - cells.low)
    ends = np.exp(cells.high + log_ndtr(-mu / 2 - cells.high / mu)) * np.expm1(cells.low - cells.high)
    with np.errstate(divide="ignore", invalid="ignore"):
        meet = np.nan_to_num((high - ends - low) / (falls - ends), nan=0.0)
    meet = np.clip(meet, 0, 1)
    below = low + falls * meet - (cells.low_delta + (cells.high_delta - cells.low_delta) * meet)
    return bool(np.all(np.minimum(below, np.minimum(low - cells.low_delta, high - cells.high_delta)) >= -SLACK))


def _cells(loss: Loss) -> Cells:
    """The cells of both directions' grids from ε = 0 on, down to `FLOOR`."""
    found = []
    for side in (loss.removed, loss.added):
        epsilons, deltas = side.epsilons, side.deltas
        wanted = (epsilons[1:] > 0) & (deltas[:-1] > FLOOR)
        found.append(
            (np.maximum(epsilons[:-1], 0)[wanted], epsilons[1:][wanted], deltas[:-1][wanted], deltas[1:][wanted])
        )
    return Cells(*(np.concatenate(parts) for parts in zip(*found, strict=True)))
