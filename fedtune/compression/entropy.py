"""Symbols at their entropy: a range coder's size, by the counts of the symbols alone.

The stream (`fedtune.compression.stream`) has format 0x11 and begins with the fields

    n        varint: the number of symbols
    mode     one byte: 0 to 3 ternary symbols, 4 symbols of any alphabet, 5 symbols as they are, a byte each

`fedtune.compression.entropy_ternary` and `fedtune.compression.entropy_counts` say what follows modes 0 to 4.
"""

from typing import ClassVar

import numpy as np

from fedtune.compression import ans, entropy_counts, entropy_ternary
from fedtune.compression.base import Form
from fedtune.compression.planes import is_ternary
from fedtune.compression.stream import Bytes, Coded, Reader, seal
from fedtune.compression.symbols import SymbolCoder, Symbols
from fedtune.errors import MalformedMessage
from fedtune.recipe.compression import CompressionSection

FORMAT = 0x11
PLAIN = 5
_MOST_OVERHEAD = 32


class Entropy(SymbolCoder):
    """ANS by constriction; raises RecipeError where that package is not installed.

    Guarantees: 10⁶ independent symbols take at most the entropy of their counts, 0.5 % and 64 bytes; any symbols at
    all a byte each and 32 bytes.
    """

    name: ClassVar[str] = "entropy"

    def __init__(self, section: CompressionSection, *, coded: bool = False) -> None:
        super().__init__(section, coded=coded)
        ans.load()

    def most_bytes(self, count: int) -> int:
        """A byte a symbol, and the fields."""
        return count + _MOST_OVERHEAD

    def pack(self, symbols: Symbols) -> Bytes:
        """By the counts of the symbols, or as they are where that is shorter."""
        counted = entropy_ternary.pack(symbols) if is_ternary(symbols) else entropy_counts.pack(symbols)
        return seal(FORMAT, len(symbols), min(counted, _plain(symbols), key=len))

    def unpack(self, stream: Bytes, form: Form) -> Symbols:
        """The symbols again, whatever the mode."""
        reader = Reader(stream, FORMAT)
        count = reader.count(form)
        mode = reader.byte()
        if mode in entropy_ternary.MODES:
            return entropy_ternary.unpack(reader, mode, count)
        if mode == entropy_counts.MODE:
            return entropy_counts.unpack(reader, count)
        if mode == PLAIN:
            return _unpack_plain(reader, count)
        raise MalformedMessage(f"the stream has a mode {mode}, which there is not")


def _plain(symbols: Symbols) -> Coded:
    raw = symbols.view(np.uint8)
    return Coded(bytes([PLAIN]), (raw,), (raw,))


def _unpack_plain(reader: Reader, count: int) -> Symbols:
    raw = reader.words(count)
    reader.verify([raw])
    return raw.copy().view(np.int8)
