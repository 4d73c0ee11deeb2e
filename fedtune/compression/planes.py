"""Ternary symbols as bits: a plane that says where a symbol is not zero, and a plane with the signs of those.

A plane is packed eight bits a byte, the first bit highest; the bits that fill up the last byte are zero.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fedtune.compression.stream import Bytes
from fedtune.errors import MalformedMessage, RecipeError

_AT_ONCE = 1 << 16
"""Symbols whose places are listed at once: as 64-bit integers they take eight times the memory."""

BITS_SET: NDArray[np.uint8] = np.unpackbits(np.arange(256, dtype=np.uint8)[:, None], axis=1).sum(1, dtype=np.uint8)
"""How many bits are set, by byte."""

_BEYOND = [0xFF >> used if used else 0 for used in range(8)]
"""The bits of a last byte of which so many are used, that must be zero."""


@dataclass(frozen=True, slots=True)
class Ternary:
    """`count` symbols of -1, 0 and 1, of which `nonzeros` are not zero and `negatives` are -1."""

    count: int
    nonzeros: int
    negatives: int
    places: Bytes
    """(⌈count / 8⌉,) bytes: a bit for every symbol."""
    signs: Bytes
    """(⌈nonzeros / 8⌉,) bytes: a bit for every symbol that is not zero, set where it is -1."""


def is_ternary(symbols: NDArray[np.int8]) -> bool:
    """Are there no symbols but -1, 0 and 1?"""
    return not len(symbols) or bool(symbols.min() >= -1 and symbols.max() <= 1)


def check_ternary(symbols: NDArray[np.int8], *, stage: str) -> None:
    """Raises RecipeError where a stage for ternary symbols is given others."""
    if not is_ternary(symbols):
        raise RecipeError(
            f'compression.upload has "{stage}" after symbols that are not only -1, 0 and 1: use "entropy" there'
        )


def plane_bytes(bits: int) -> int:
    """The bytes of a plane."""
    return -(-bits // 8)


def split(symbols: NDArray[np.int8]) -> Ternary:
    """The planes of (count,) ternary symbols."""
    places = symbols != 0
    parts = [np.zeros(0, np.bool_)]
    for start in range(0, len(symbols), _AT_ONCE):
        part = symbols[start : start + _AT_ONCE]
        parts.append(part[np.flatnonzero(places[start : start + _AT_ONCE])] < 0)
    negative = np.concatenate(parts)
    return Ternary(len(symbols), len(negative), int(negative.sum()), np.packbits(places), np.packbits(negative))


def join(planes: Ternary) -> NDArray[np.int8]:
    """The (count,) symbols of planes that `check` has let through."""
    symbols = np.unpackbits(planes.places, count=planes.count).view(np.int8)
    if not planes.negatives:
        return symbols
    signs, used = values_of(planes.signs, planes.nonzeros), 0
    for start in range(0, planes.count, _AT_ONCE):
        part = symbols[start : start + _AT_ONCE]
        places = np.flatnonzero(part.view(np.bool_))
        part[places] = signs[used : used + len(places)]
        used += len(places)
    return symbols


def values_of(signs: Bytes, nonzeros: int) -> NDArray[np.int8]:
    """(nonzeros,) symbols of 1 and -1 from the plane of their signs."""
    values = np.unpackbits(signs, count=nonzeros).view(np.int8)
    values *= -2
    values += 1
    return values


def check(planes: Ternary) -> None:
    """Raises MalformedMessage where the planes have not as many bits set as they should."""
    check_plane(planes.places, planes.count, planes.nonzeros)
    check_plane(planes.signs, planes.nonzeros, planes.negatives)


def check_plane(plane: Bytes, bits: int, ones: int) -> None:
    """Raises MalformedMessage where a plane of ⌈bits / 8⌉ bytes has not `ones` bits set, or one beyond `bits`."""
    check_end(plane, bits)
    if int(np.take(BITS_SET, plane).sum()) != ones:
        raise MalformedMessage("the stream has not the symbols that it counts")


def check_end(plane: Bytes, bits: int) -> None:
    """Raises MalformedMessage where a plane of ⌈bits / 8⌉ bytes has a bit set beyond `bits`."""
    if bits and int(plane[-1]) & _BEYOND[bits % 8]:
        raise MalformedMessage("the stream has symbols beyond its last one")


def same_bits(bits: int, *, value: bool) -> Bytes:
    """A plane of zeros or of ones."""
    plane = np.full(plane_bytes(bits), 0xFF if value else 0, np.uint8)
    if bits:
        plane[-1] &= 0xFF ^ _BEYOND[bits % 8]
    return plane
