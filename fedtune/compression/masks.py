"""Ternary symbols as two masks in memory, two bits a symbol, added to a sum without being unpacked whole.

For merging many sparse updates: each stays a sixteenth of its fp32 size until its turn.
"""

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from fedtune.compression.planes import plane_bytes
from fedtune.compression.stream import Bytes

_AT_ONCE = 1 << 18
"""Symbols unpacked at once, a multiple of eight: they stay in the processor's cache."""


@dataclass(frozen=True, slots=True)
class Masks:
    """`count` symbols; each mask has ⌈count / 8⌉ bytes, the first bit highest, zeros beyond the last symbol."""

    count: int
    positive: Bytes
    negative: Bytes


def masks_of(symbols: NDArray[np.int8]) -> Masks:
    """The masks of (count,) symbols of -1, 0 and 1."""
    return Masks(len(symbols), np.packbits(symbols > 0), np.packbits(symbols < 0))


def symbols_of(masks: Masks) -> NDArray[np.int8]:
    """The (count,) symbols again."""
    symbols = np.empty(masks.count, np.int8)
    for start in range(0, masks.count, _AT_ONCE):
        part = symbols[start : start + _AT_ONCE]
        part[:] = _unpacked(masks, start, len(part))
    return symbols


def add_scaled(total: torch.Tensor, masks: Masks, scale: float) -> None:
    """Adds scale · symbols to `total`, a contiguous fp32 tensor of `count` numbers, in place.

    Each number is rounded once, as in `total += scale * symbols`.
    """
    flat = total.view(-1)
    for start in range(0, masks.count, _AT_ONCE):
        part = flat[start : start + _AT_ONCE]
        part.add_(torch.from_numpy(_unpacked(masks, start, len(part))), alpha=scale)


def _unpacked(masks: Masks, start: int, count: int) -> NDArray[np.int8]:
    here = slice(start // 8, start // 8 + plane_bytes(count))
    positive, negative = (
        np.unpackbits(mask[here], count=count).view(np.int8) for mask in (masks.positive, masks.negative)
    )
    positive -= negative
    return positive
