"""One event as two discrete distributions on a grid of losses, at least as far apart as the true ones."""

import math
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtr

Floats = NDArray[np.float64]

REACH = 9.9
"""Standard deviations of noise that lie on the grid; what lies beyond, 2e-23 of it, counts as lost altogether."""


@dataclass(frozen=True, slots=True)
class Step:
    """The pair (P, Q) of one event: what it may show with the unit (P) and without it (Q), by its loss log P/Q.

    `with_unit[i]` of P has the loss `(first + i) * width`, and Q has e to the minus that loss times as much there.
    `only_with` of P lies where Q has nothing, `only_without` of Q where P has nothing.
    """

    width: float
    first: int
    with_unit: Floats
    only_with: float
    only_without: float
    mirrored: bool
    """Whether P and Q may change places (rate 1), which turns the sign of every loss."""

    @property
    def losses(self) -> Floats:
        """The grid: (points,)."""
        return self.width * np.arange(self.first, self.first + len(self.with_unit), dtype=np.float64)

    @property
    def without_unit(self) -> Floats:
        """Q on the same grid: (points,)."""
        if self.mirrored:
            return self.with_unit[::-1]
        return np.asarray(self.with_unit * np.exp(-self.losses))


def span(sigma: float, rate: float) -> tuple[float, float]:
    """The least and the greatest loss within `REACH`."""
    return loss_at(-REACH * sigma, sigma, rate), loss_at(1 + REACH * sigma, sigma, rate)


def loss_at(x: float, sigma: float, rate: float) -> float:
    """log P/Q where the event shows x: Q is N(0, σ²), P is N(1, σ²) with probability `rate` and Q otherwise."""
    full = (x - 0.5) / sigma**2
    return full if rate == 1 else float(np.logaddexp(math.log1p(-rate), math.log(rate) + full))


def divergence(sigma: float, rate: float) -> float:
    """The mean loss under P, by the trapezium rule: what the grid's width is measured by."""
    z = np.linspace(-REACH, REACH, 1001)
    weight = np.exp(-(z**2) / 2) / math.sqrt(2 * math.pi) * (z[1] - z[0])
    full = np.stack([sigma * z - 0.5, sigma * z + 0.5]) / sigma**2
    loss = full if rate == 1 else np.logaddexp(math.log1p(-rate), math.log(rate) + full)
    return max(float((1 - rate) * (weight @ loss[0]) + rate * (weight @ loss[1])), 0.0)


@lru_cache(maxsize=64)
def step(sigma: float, rate: float, width: float) -> Step:
    """A Poisson-sampled Gaussian of noise multiplier σ on a grid of `width`.

    Guarantees: whoever tells P from Q by any number of such events in any order tells the discrete pair from each other
    at least as well. Within each cell of the grid the mass of P and Q goes to the cell's two ends so that both
    totals stay (connect-the-dots, arXiv 2207.04380): the δ(ε) curve is exact on the grid and a chord above the true one
    between.
    """
    low, high = span(sigma, rate)
    first, last = math.floor(low / width), math.ceil(high / width)
    losses = width * np.arange(first, last + 1, dtype=np.float64)
    x = _where(losses, sigma, rate)
    q, p1 = _between(x / sigma), _between((x - 1) / sigma)
    # P - e^loss Q of a cell: all but the sampled part cancels exactly.
    sampled = rate * np.exp(np.minimum((x[:-1] - 0.5) / sigma**2, 700))
    sampled[np.isneginf(x[:-1])] = math.exp(losses[0]) - (1 - rate)
    excess = rate * p1 - sampled * q
    p = (1 - rate) * q + rate * p1
    upper = np.clip(excess / -math.expm1(-width), 0, p)
    with_unit = np.zeros(len(losses))
    with_unit[1:] += upper
    with_unit[:-1] += p - upper
    below, above = (1 - rate) * ndtr(x[0] / sigma) + rate * ndtr((x[0] - 1) / sigma), ndtr(-x[-1] / sigma)
    with_unit[0] += below  # A loss below the grid rounds up.
    only_with = (1 - rate) * above + rate * ndtr((1 - x[-1]) / sigma)
    return Step(width, first, with_unit, float(only_with), float(ndtr(x[0] / sigma) + above), rate == 1)


def _where(losses: Floats, sigma: float, rate: float) -> Floats:
    """The x at which the loss is what it is; minus infinity for what no x reaches."""
    if rate == 1:
        return np.asarray(0.5 + sigma**2 * losses)
    with np.errstate(divide="ignore", invalid="ignore"):
        small = np.log(np.maximum(np.expm1(np.minimum(losses, 1)) + rate, 0))
        large = losses + np.log1p(-(1 - rate) * np.exp(-np.maximum(losses, 0)))
        return np.asarray(0.5 + sigma**2 * (np.where(losses < 0.5, small, large) - math.log(rate)))


def _between(z: Floats) -> Floats:
    """Standard normal mass between neighbours, to its own precision in both tails."""
    a, b = z[:-1], z[1:]
    return np.asarray(np.where(a > 0, ndtr(-a) - ndtr(-b), ndtr(b) - ndtr(a)))
