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
    found = [_sent_as_is(reader, code) if sent else None for code, sent in zip(codes, packed, strict=True)]
    coded = [code for code, plane in zip(codes, found, strict=True) if plane is None and not code.constant]
    if not coded:
        reader.end()
    decoded = iter(_decode(reader, coded) if coded else [])
    places, signs = (
        plane if plane is not None else _constant(code) if code.constant else next(decoded)
        for code, plane in zip(codes, found, strict=True)
    )
    return places, signs


def _sent_as_is(reader: Reader, code: PlaneCode) -> Bytes:
    return reader.words(planes.plane_bytes(code.bits))


def _constant(code: PlaneCode) -> Bytes:
    return planes.same_bits(code.bits, value=code.ones > 0)


def _decode(reader: Reader, coded: list[PlaneCode]) -> list[Bytes]:
    ranges = [code.cost_range() for code in coded]
    symbols = sum(planes.plane_bytes(code.bits) for code in coded)
    check_length(reader.left, symbols, sum(least for least, _ in ranges), sum(most for _, most in ranges))
    decoder = Decoder(reader.words(reader.left))
    decoded = [decoder.take(planes.plane_bytes(code.bits), code.model()) for code in coded]
    decoder.finish()
    return decoded
