"""Mode 4 of `entropy`: symbols of any alphabet by how often each is met.

    least     one byte: the least symbol, in two's complement
    size      one byte: the number of symbols from the least to the greatest, less one
    counts    a varint for each of them: how often it is met; the first and the last are
    words     the symbols in one code (`fedtune.compression.ans`), none where there is one symbol alone

The checksum is over the symbols.
"""

import numpy as np

from fedtune.compression.ans import Decoder, check_length, encode, model_of
from fedtune.compression.stream import Bytes, Coded, Reader, varint
from fedtune.compression.symbols import Symbols
from fedtune.errors import MalformedMessage

MODE = 4
_GREATEST = 127


def pack(symbols: Symbols) -> Coded:
    """The counts and the code; there is one symbol at least."""
    least, size = int(symbols.min()), int(symbols.max()) - int(symbols.min()) + 1
    shifted = symbols.view(np.uint8) - np.uint8(least % 256)
    counts = np.bincount(shifted, minlength=size).tolist()
    fields = bytes([MODE, least % 256, size - 1]) + b"".join(map(varint, counts))
    words = (encode([(shifted, model_of(counts))]),) if size > 1 else ()
    return Coded(fields, words, (symbols.view(np.uint8),))


def unpack(reader: Reader, count: int) -> Symbols:
    """The symbols again; raises MalformedMessage."""
    least = int(np.uint8(reader.byte()).view(np.int8))
    size = reader.byte() + 1
    counts = [reader.varint(count) for _ in range(size)]
    if least + size - 1 > _GREATEST or sum(counts) != count or not (counts[0] and counts[-1]):
        raise MalformedMessage("the stream's counts are not those of its symbols")
    decoded = _shifted(reader, counts) + np.uint8(least % 256)
    reader.verify([decoded])
    return decoded.view(np.int8)


def _shifted(reader: Reader, counts: list[int]) -> Bytes:
    """The symbols less the least one."""
    if len(counts) == 1:
        reader.end()
        return np.zeros(counts[0], np.uint8)
    model, count = model_of(counts), sum(counts)
    cost = float(np.dot(model.costs(), counts))
    check_length(reader.left, count, cost, cost)
    decoder = Decoder(reader.words(reader.left))
    shifted = decoder.take(count, model)
    decoder.finish()
    return shifted
