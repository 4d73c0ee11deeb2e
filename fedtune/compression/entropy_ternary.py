"""Modes 0 to 3 of `entropy`: symbols of -1, 0 and 1 as two planes of bits (`fedtune.compression.planes`).

    mode      bit 0: the places are sent packed; bit 1: the signs are
    k, m      varints: how many of the n symbols are not zero, how many of those are -1
    places    if packed, ⌈n / 8⌉ bytes
    signs     if packed, ⌈k / 8⌉ bytes
    words     the planes that are not packed, places first, in one code (`fedtune.compression.plane_code`)

A plane whose bits are all alike is not sent at all. The checksum is over both planes.
"""

from fedtune.compression import planes
from fedtune.compression.ans import Decoder, check_length, encode
from fedtune.compression.plane_code import PlaneCode
from fedtune.compression.planes import Ternary
from fedtune.compression.stream import Bytes, Coded, Reader, varint
from fedtune.compression.symbols import Symbols

MODES = range(4)


def pack(symbols: Symbols) -> Coded:
    """Both planes, each coded where that is shorter."""
    split = planes.split(symbols)
    parts = list(zip(_codes(split.count, split.nonzeros, split.negatives), (split.places, split.signs), strict=True))
    packed = [not code.constant and not code.pays() for code, _ in parts]
    words = [plane for (_, plane), as_is in zip(parts, packed, strict=True) if as_is]
    coded = [(plane, code.model()) for code, plane in parts if code.pays()]
    fields = bytes([packed[0] + 2 * packed[1]]) + varint(split.nonzeros) + varint(split.negatives)
    return Coded(fields, (*words, *([encode(coded)] if coded else [])), (split.places, split.signs))


def unpack(reader: Reader, mode: int, count: int) -> Symbols:
    """The symbols again; raises MalformedMessage."""
    nonzeros = reader.varint(count)
    negatives = reader.varint(nonzeros)
    codes = _codes(count, nonzeros, negatives)
    places, signs = _read(reader, codes, (bool(mode & 1), bool(mode & 2)))
    split = Ternary(count, nonzeros, negatives, places, signs)
    planes.check(split)
    reader.verify((places, signs))
    return planes.join(split)


def _codes(count: int, nonzeros: int, negatives: int) -> tuple[PlaneCode, PlaneCode]:
    return PlaneCode(count, nonzeros), PlaneCode(nonzeros, negatives)


def _read(reader: Reader, codes: tuple[PlaneCode, PlaneCode], packed: tuple[bool, bool]) -> tuple[Bytes, Bytes]:
    as_is = [
        reader.words(planes.plane_bytes(code.bits)) if sent else None for code, sent in zip(codes, packed, strict=True)
    ]
    coded = [code for code, plane in zip(codes, as_is, strict=True) if plane is None and not code.constant]
    words = reader.words(reader.left if coded else 0)
    _check_length(len(words), coded)
    decoder = Decoder(words)
    places, signs = (
        _plane(decoder, code) if plane is None else plane for code, plane in zip(codes, as_is, strict=True)
    )
    decoder.finish()
    return places, signs


def _check_length(words: int, coded: list[PlaneCode]) -> None:
    ranges = [code.cost_range() for code in coded]
    symbols = sum(planes.plane_bytes(code.bits) for code in coded)
    check_length(words, symbols, sum(least for least, _ in ranges), sum(most for _, most in ranges))


def _plane(decoder: Decoder, code: PlaneCode) -> Bytes:
    if code.constant:
        return planes.same_bits(code.bits, value=code.ones > 0)
    return decoder.take(planes.plane_bytes(code.bits), code.model())
