"""Many independent losses added up: their distribution by Fourier transform, precise in its upper tail."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import fft

from fedtune.privacy.accounting.window import LOST, Floats, Part, Window

SEAM = 1e-3
"""Above the loss with this tail the tilted transform counts, below it the plain one."""


@dataclass(frozen=True, slots=True)
class Sum:
    """The sum of all parts: `mass[i]` at the grid's point `first + i`, and what may lie beyond the last."""

    first: int
    mass: Floats
    beyond: float


def add_up(parts: Sequence[Part], window: Window) -> Sum:
    """The distribution of the sum of independent losses within a window.

    Guarantees: mass above the window is at most `beyond`; what lies below it is not lost but counts as a loss within.
    Rounding is relative to each tail and not to one: a plain transform of doubles errs everywhere by 1e-16 times
    the number of losses and more, which drowns a tail of 1e-12, so the upper tail is taken from a transform of the
    exponentially tilted losses (Esscher's).
    """
    plain = _transformed(parts, window, 0.0)
    if window.tilt:
        tail = np.cumsum(plain[::-1])[::-1]
        seam = int(np.searchsorted(-tail, -SEAM))
        plain[seam:] = _transformed(parts, window, window.tilt)[seam:]
    return Sum(window.first, plain, LOST if window.cut else 0.0)


def _transformed(parts: Sequence[Part], window: Window, tilt: float) -> Floats:
    """The sum's masses in the window by one product of spectra; `tilt` is an order, in points."""
    length = fft.next_fast_len(window.points, real=True)
    spectrum = np.zeros(length // 2 + 1, dtype=np.complex128)
    start, scale = 0, 0.0
    for part in parts:
        mass, log_total = _tilted(part.mass, tilt) if tilt else (part.mass, 0.0)
        spectrum += _log_power(fft.rfft(_wrapped(mass, length)), part.count)
        start += part.count * part.first
        scale += part.count * (log_total + tilt * part.first)
    mass = np.roll(fft.irfft(np.exp(spectrum), length), (start - window.first) % length)[: window.points]
    if tilt:
        mass = mass * np.exp(np.minimum(scale - tilt * np.arange(window.first, window.last + 1), 700))
    return np.asarray(np.maximum(mass, 0))


def _log_power(spectrum: NDArray[np.complex128], count: int) -> NDArray[np.complex128]:
    """log of the spectrum to the power of `count`; minus infinity, with an angle of zero, where it is zero.

    Modulus and angle apart: a count times the complex logarithm of zero is minus infinity plus NaN.
    """
    with np.errstate(divide="ignore"):
        logs = np.log(spectrum)
    logs.real *= count
    logs.imag *= count
    return logs


def _tilted(mass: Floats, order: float) -> tuple[Floats, float]:
    """The masses times e^(order * i), to total one, and the logarithm of the total."""
    with np.errstate(divide="ignore"):
        exponent = order * np.arange(len(mass), dtype=np.float64) + np.log(mass)
    top = float(exponent.max())
    tilted = np.exp(exponent - top)
    total = float(tilted.sum())
    return tilted / total, top + math.log(total)


def _wrapped(mass: Floats, length: int) -> Floats:
    """A long distribution folded onto a circle of `length`."""
    rows = -(-len(mass) // length)
    return np.asarray(np.pad(mass, (0, rows * length - len(mass))).reshape(rows, length).sum(axis=0))
