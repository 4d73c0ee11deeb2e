"""Golomb-Rice codes of the gaps between symbols that are not zero: NumPy alone, for ternary symbols.

The gaps of independent symbols are geometric: a gap g is coded as g >> b in unary, then its last b bits. Where a share
p of the symbols is not zero, b = max(0, 1 + ⌊log₂(log(φ − 1) / log(1 − p))⌋) is the best, φ the golden ratio
(arXiv 1903.02891).

The stream (`fedtune.compression.stream`) has format 0x21:

    n, k, m    varints: the symbols, those that are not zero, those that are -1
    b          one byte
    signs      ⌈k / 8⌉ bytes: a bit for each symbol that is not zero, set where it is -1; none where all have one sign
    low        ⌈b·k / 8⌉ bytes: the last bits of the gaps, first the highest of all gaps, then the next
    high       the rest: for each gap as many zeros as g >> b, then a one; zeros to the end of the byte

The checksum is over the planes of places and signs (`fedtune.compression.planes`).
"""

from math import floor, log, log2
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from fedtune.compression import planes
from fedtune.compression.base import Form
from fedtune.compression.planes import plane_bytes
from fedtune.compression.stream import Bytes, Coded, Reader, seal, varint
from fedtune.compression.symbols import SymbolCoder, Symbols
from fedtune.errors import MalformedMessage

FORMAT = 0x21
_LOG_GOLDEN = log((5**0.5 - 1) / 2)
_MOST_OVERHEAD = 48
_AT_ONCE = 1 << 16
"""Gaps coded at once: they stay in the processor's cache."""

Gaps = NDArray[np.int64]
"""(k,): the zeros before each symbol that is not zero, or what is made of them."""


def low_bits(count: int, nonzeros: int) -> int:
    """The b of the shortest code; the stream carries it, so that no logarithm need agree on both ends."""
    if nonzeros in {0, count}:
        return 0
    return max(0, 1 + floor(log2(_LOG_GOLDEN / log(1 - nonzeros / count))))


class Rice(SymbolCoder):
    """For receivers without constriction; raises RecipeError for symbols that are not ternary.

    Guarantees: 10⁶ independent symbols of two signs take at most the entropy of their counts, 2 % and 64 bytes, where
    0.1, 1, 5, 10, 20, 30 or 50 % are not zero, and 3.1 % at the worst share between them (38 %). Beyond one half a
    plane of places is shorter. Any ternary symbols take at most a quarter of a byte each and 48 bytes.
    """

    name: ClassVar[str] = "rice"

    def most_bytes(self, count: int) -> int:
        """Two bits a symbol, and the fields."""
        return 2 * plane_bytes(count) + _MOST_OVERHEAD

    def pack(self, symbols: Symbols) -> Bytes:
        """Gaps and signs in parts of their own."""
        planes.check_ternary(symbols, stage=self.name)
        split = planes.split(symbols)
        low = low_bits(split.count, split.nonzeros)
        fields = varint(split.nonzeros) + varint(split.negatives) + bytes([low])
        signs = [] if split.negatives in {0, split.nonzeros} else [split.signs]
        words = (*signs, *_pack(np.flatnonzero(symbols != 0), low))
        return seal(FORMAT, split.count, Coded(fields, words, (split.places, split.signs)))

    def unpack(self, stream: Bytes, form: Form) -> Symbols:
        """Places from the gaps, signs from their plane."""
        reader = Reader(stream, FORMAT)
        count = reader.count(form)
        nonzeros = reader.varint(count)
        negatives = reader.varint(nonzeros)
        low = reader.byte()
        if nonzeros << low > count or nonzeros * (low + 1) > 8 * reader.left:
            raise MalformedMessage("the stream has not the length of the symbols that it counts")
        signs = _read_signs(reader, nonzeros, negatives)
        places = _read_places(reader, count, nonzeros, low)
        symbols = np.zeros(count, np.int8)
        symbols[places] = planes.values_of(signs, nonzeros)
        reader.verify((np.packbits(symbols != 0), signs))
        return symbols


def _pack(places: Gaps, low: int) -> tuple[Bytes, Bytes]:
    """The low and the high part."""
    lows, highs = [np.zeros((low, 0), np.bool_)], [np.zeros(0, np.bool_)]
    for start in range(0, len(places), _AT_ONCE):
        gaps = _between(places[start : start + _AT_ONCE], before=int(places[start - 1]) if start else -1)
        lows.append((gaps >> np.arange(low)[::-1, None] & 1).astype(np.bool_))
        highs.append(_unary(gaps >> low))
    return np.packbits(np.concatenate(lows, axis=1)), np.packbits(np.concatenate(highs))


def _between(places: Gaps, *, before: int = -1) -> Gaps:
    """How many there are between each place and the one before it."""
    gaps = np.diff(places, prepend=before)
    gaps -= 1
    return gaps


def _unary(numbers: Gaps) -> NDArray[np.bool_]:
    """Each number as so many zeros and a one."""
    ends = np.cumsum(numbers + 1) - 1
    bits = np.zeros(ends[-1] + 1, np.bool_)
    bits[ends] = True
    return bits


def _read_signs(reader: Reader, nonzeros: int, negatives: int) -> Bytes:
    if negatives in {0, nonzeros}:
        return planes.same_bits(nonzeros, value=negatives > 0)
    signs = reader.words(plane_bytes(nonzeros))
    planes.check_plane(signs, nonzeros, negatives)
    return signs


def _read_places(reader: Reader, count: int, nonzeros: int, low: int) -> Gaps:
    """Where the symbols lie that are not zero; refused before a gap could leave the tensor."""
    packed = reader.words(plane_bytes(low * nonzeros))
    planes.check_end(packed, low * nonzeros)
    gaps = _read_high(reader.words(reader.left), nonzeros)
    if int(gaps.sum()) << low > count:
        raise MalformedMessage("the stream has gaps that are longer than the tensor")
    for bits in np.unpackbits(packed, count=low * nonzeros).reshape(low, nonzeros):
        gaps <<= 1
        gaps |= bits
    places = np.cumsum(gaps)
    places += np.arange(nonzeros)
    if nonzeros and places[-1] >= count:
        raise MalformedMessage("the stream has symbols beyond its last one")
    return places


def _read_high(high: Bytes, nonzeros: int) -> Gaps:
    ends = np.flatnonzero(np.unpackbits(high).view(np.bool_))
    if len(ends) != nonzeros or len(high) != (plane_bytes(int(ends[-1]) + 1) if nonzeros else 0):
        raise MalformedMessage("the stream has not the gaps that it counts")
    return _between(ends)
