"""Two bits a symbol: the masks of ternary symbols, for receivers that merge them in memory (arXiv 2311.13171).

The stream (`fedtune.compression.stream`) has format 0x31:

    n           varint: the number of symbols
    positive    ⌈n / 8⌉ bytes: a bit for each symbol, the first highest, set where it is 1
    negative    ⌈n / 8⌉ bytes: the same, set where it is -1

The checksum is over both masks.
"""

from typing import ClassVar

import numpy as np

from fedtune.compression import planes
from fedtune.compression.base import Form
from fedtune.compression.masks import Masks, masks_of, symbols_of
from fedtune.compression.stream import CHECKSUM_BYTES, Bytes, Coded, Reader, seal, varint
from fedtune.compression.symbols import SymbolCoder, Symbols
from fedtune.errors import MalformedMessage

FORMAT = 0x31


class Bitmask(SymbolCoder):
    """The fastest coder and the largest stream, always of the same length; RecipeError for symbols not ternary."""

    name: ClassVar[str] = "bitmask"
    fixed_length: ClassVar[bool] = True

    def most_bytes(self, count: int) -> int:
        """Two bits a symbol, format, checksum and count."""
        return 1 + CHECKSUM_BYTES + len(varint(count)) + 2 * planes.plane_bytes(count)

    def pack(self, symbols: Symbols) -> Bytes:
        """Both masks as they are."""
        planes.check_ternary(symbols, stage=self.name)
        masks = masks_of(symbols)
        both = (masks.positive, masks.negative)
        return seal(FORMAT, masks.count, Coded(b"", both, both))

    def unpack(self, stream: Bytes, form: Form) -> Symbols:
        """The symbols of the masks."""
        return symbols_of(read_masks(stream, form))


def read_masks(stream: Bytes, form: Form) -> Masks:
    """The masks of a stream, two views of it: an eighth of the memory of its symbols. Raises MalformedMessage."""
    reader = Reader(stream, FORMAT)
    count = reader.count(form)
    positive, negative = (reader.words(planes.plane_bytes(count)) for _ in range(2))
    reader.verify((positive, negative))
    planes.check_end(positive, count)
    planes.check_end(negative, count)
    if bool(np.any(positive & negative)):
        raise MalformedMessage("the stream has symbols that are both positive and negative")
    return Masks(count, positive, negative)
