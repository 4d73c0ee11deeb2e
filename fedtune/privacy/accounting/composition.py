"""Events composed to one loss: the grid's width, the sums of both directions, and a memory of what was composed."""

import math
from collections.abc import Iterable, Sequence
from functools import lru_cache

import numpy as np

from fedtune.privacy.accounting.convolve import add_up
from fedtune.privacy.accounting.groups import Group, groups_of
from fedtune.privacy.accounting.loss import Loss, Side
from fedtune.privacy.accounting.step import Step, divergence, span, step
from fedtune.privacy.accounting.window import Part, Window, window_of
from fedtune.privacy.events import Event

ACCURACY = 1e-5
"""What the grid adds to the mean loss, relatively, where `LARGEST` allows it."""
LARGEST = 2**19
"""Points of the largest array, over all groups of one composition."""
SMALLEST = 2**13
"""Points that a group has at least."""
WIDEST = 1.0
"""A grid that would have to be wider is not tried: the loss, some 100,000 and more, counts as infinite."""
NOTHING, EVERYTHING = (Loss(side, side) for side in (Side(1.0, 0, np.zeros(1)), Side(1.0, 0, np.ones(1))))


def compose(events: Sequence[Event]) -> Loss:
    """The loss of all events together, adaptively composed (arXiv 2106.08567, 2207.04380).

    Guarantees: an upper bound; the order of the events does not matter; no events lose nothing.
    """
    return _composed(groups_of(events))


@lru_cache(maxsize=16)
def _composed(groups: tuple[Group, ...]) -> Loss:
    if not groups:
        return NOTHING
    width = _width(groups)
    while width <= WIDEST:
        steps = [(step(sigma, rate, width), count) for sigma, rate, count in groups]
        there = [Part.of(one.first, one.with_unit, count) for one, count in steps]
        window = window_of(there)
        if window.points <= 4 * LARGEST:
            return _summed(steps, there, window, width)
        width *= 2.0 ** math.ceil(math.log2(window.points / (4 * LARGEST)))
    return EVERYTHING


def _summed(steps: Sequence[tuple[Step, int]], there: Sequence[Part], window: Window, width: float) -> Loss:
    """Both directions: `there` and its window are those of the first."""
    removed = Side.of(add_up(there, window), _any((one.only_with, count) for one, count in steps), width)
    if all(one.mirrored for one, _ in steps):
        return Loss(removed, removed)
    back = [Part.of(1 - one.first - len(one.with_unit), one.without_unit[::-1], count) for one, count in steps]
    added = Side.of(add_up(back, window_of(back)), _any((one.only_without, count) for one, count in steps), width)
    return Loss(removed, added)


def _width(groups: tuple[Group, ...]) -> float:
    """The grid's width, a power of √2 so that steps are found again in later compositions.

    A cell of width w adds about w²/12 to the mean loss of each event.
    """
    count = sum(count for _, _, count in groups)
    mean = sum(count * divergence(sigma, rate) for sigma, rate, count in groups)
    wanted = math.sqrt(12 * ACCURACY * mean / count)
    longest = max(high - low for low, high in (span(sigma, rate) for sigma, rate, _ in groups))
    whole = max(longest, mean + 20 * math.sqrt(2 * mean))
    most = max(SMALLEST, LARGEST // len(groups))
    width = max(wanted, longest / most, whole / LARGEST)
    return float(2 ** (math.ceil(2 * math.log2(width)) / 2))


def _any(chances: Iterable[tuple[float, int]]) -> float:
    """The chance that anything happens of what happens so likely, so many times."""
    return -math.expm1(sum(count * math.log1p(-min(chance, 1 - 1e-16)) for chance, count in chances))
