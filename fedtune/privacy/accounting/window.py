"""Where the sum of many losses lies, all but a known rest: Chernoff's bounds from the moments of its parts."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

LOST = 1e-17
"""What may lie beyond each end of the window; above it counts as infinite loss."""
ALIASED = 1e-9
"""What of the tilted sum may lie above the window."""
TILTED_TO = 1e-8
"""The tail that the tilt brings to the middle."""
BLOCK = 64


@dataclass(frozen=True, slots=True)
class Part:
    """A loss that occurs `count` times: `mass[i]` at the grid's point `first + i`; the ends have some mass."""

    first: int
    mass: Floats
    count: int

    @classmethod
    def of(cls, first: int, mass: Floats, count: int) -> "Part":
        """Without the empty points at both ends."""
        filled = np.flatnonzero(mass)
        return cls(first + int(filled[0]), mass[filled[0] : filled[-1] + 1], count)


@dataclass(frozen=True, slots=True)
class Window:
    """The grid's points from `first` to `last`, and the order of the exponential tilt, per point."""

    first: int
    last: int
    tilt: float
    cut: bool
    """Whether anything can lie above."""

    @property
    def points(self) -> int:
        """How many."""
        return self.last - self.first + 1


def window_of(parts: Sequence[Part]) -> Window:
    """Where all but `LOST` of the sum lies on each side; never more than where it can lie."""
    least = sum(part.count * part.first for part in parts)
    most = sum(part.count * (part.first + len(part.mass) - 1) for part in parts)
    orders, up = _moments(parts, 1)
    backward, down = _moments(parts, -1)
    high = float(np.min((up - math.log(LOST)) / orders))
    low = -float(np.min((down - math.log(LOST)) / backward))
    tilt, reach = _tilt(orders, up, high + (high - low) / 2)
    first = math.floor(min(max(low, least), most))
    last = math.ceil(min(max(high, reach, first), most))
    return Window(first, last, tilt, last < most)


def _tilt(orders: Floats, moments: Floats, most: float) -> tuple[float, float]:
    """The greatest order up to that for `TILTED_TO` that leaves all but `ALIASED` of the tilted sum below `most`.

    With it, below what; 0 where there is none.
    """
    # Chernoff's bound for the sum tilted by order i takes a further order j.
    with np.errstate(divide="ignore", invalid="ignore"):
        bounds = (moments[None] - moments[:, None] - math.log(ALIASED)) / (orders[None] - orders[:, None])
    reach = np.where(orders[None] > orders[:, None], bounds, np.inf).min(axis=1)
    best = int(np.argmin((moments - math.log(TILTED_TO)) / orders))
    suits = np.flatnonzero(reach[: best + 1] <= most)
    return (float(orders[suits[-1]]), float(reach[suits[-1]])) if len(suits) else (0.0, -math.inf)


def _moments(parts: Sequence[Part], sign: int) -> tuple[Floats, Floats]:
    """Increasing orders, and log E[e^(sign * order * sum)] at each, the sum in points: closest where tails are small.

    The moments of sampled Gaussians grow at once beyond some order, so the best one is searched in two passes.
    """
    coarse = np.geomspace(2e-3, 30, 14) / max(_deviation(parts), 1e-3)
    first = _log_moments(parts, sign * coarse)
    best = int(np.argmin((first - math.log(LOST)) / coarse))
    fine = np.geomspace(coarse[max(best - 1, 0)], coarse[min(best + 1, len(coarse) - 1)], 14)[1:-1]
    orders = np.concatenate([coarse, fine])
    moments = np.concatenate([first, _log_moments(parts, sign * fine)])
    increasing = np.argsort(orders)
    return orders[increasing], moments[increasing]


def _deviation(parts: Sequence[Part]) -> float:
    """Standard deviation of the sum, in points, about."""
    variance = 0.0
    for part in parts:
        points = np.arange(len(part.mass), dtype=np.float64)
        middle = float(part.mass @ points)
        variance += part.count * max(float((part.mass * points) @ points) - middle**2, 0.0)
    return math.sqrt(variance)


def _log_moments(parts: Sequence[Part], orders: Floats) -> Floats:
    """log E[e^(order * sum)] at each order, all of one sign."""
    total = np.zeros(len(orders))
    for part in parts:
        # Powers by blocks, from the end where they are greatest so that none overflows: e^(a + b) = e^a e^b.
        forward = orders[0] < 0
        mass = part.mass if forward else part.mass[::-1]
        rows = -(-len(mass) // BLOCK)
        blocks = np.pad(mass, (0, rows * BLOCK - len(mass))).reshape(rows, BLOCK)
        fall = -np.abs(orders)
        within = blocks @ np.exp(np.outer(np.arange(BLOCK), fall))
        summed = (within * np.exp(np.outer(BLOCK * np.arange(rows), fall))).sum(axis=0)
        with np.errstate(divide="ignore"):
            logs = np.where(summed > 0, np.log(summed), np.inf)
        total += part.count * (logs + orders * (part.first if forward else part.first + len(mass) - 1))
    return total
