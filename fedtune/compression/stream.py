"""What the streams of all lossless coders have in common: a format byte, a checksum, counts as varints, code words.

    byte 0       format: which coder, in which version of its layout
    bytes 1-8    checksum: BLAKE2b-64 over byte 0, the fields and the decoded symbols
    fields       the coder's own, beginning with the number of symbols n; integers as varints (LEB128)
    code words   the rest

The checksum finds what was changed on the way and what a decoder got wrong. It stops nobody who wants to send a wrong
stream: all that is read is checked as if there were none.
"""

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from math import prod

import numpy as np
from numpy.typing import NDArray

from fedtune.compression.base import Form
from fedtune.errors import MalformedMessage

Bytes = NDArray[np.uint8]
"""One axis."""

CHECKSUM_BYTES = 8
_FIELDS = 1 + CHECKSUM_BYTES
_LARGEST_SHIFT = 56


@dataclass(frozen=True, slots=True)
class Coded:
    """Symbols as a coder would send them."""

    fields: bytes
    words: tuple[Bytes, ...]
    decoded: tuple[Bytes, ...]
    """What the checksum is over, beside the fields."""

    def __len__(self) -> int:
        return len(self.fields) + sum(map(len, self.words))


def varint(value: int) -> bytes:
    """Seven bits a byte, the lowest first; the top bit says that more follow."""
    low, rest = value & 0x7F, value >> 7
    return bytes([low | 0x80]) + varint(rest) if rest else bytes([low])


def seal(format_: int, count: int, coded: Coded) -> Bytes:
    """The stream of `count` symbols."""
    fields = varint(count) + coded.fields
    head = bytes([format_]) + _checksum(format_, fields, coded.decoded) + fields
    return np.concatenate([np.frombuffer(head, np.uint8), *coded.words])


def _checksum(format_: int, fields: bytes, decoded: Iterable[Bytes]) -> bytes:
    hasher = hashlib.blake2b(bytes([format_]) + fields, digest_size=CHECKSUM_BYTES)
    for part in decoded:
        hasher.update(part.data)
    return hasher.digest()


class Reader:
    """A stream, read from its front; every method raises MalformedMessage where it ends too early."""

    def __init__(self, raw: Bytes, format_: int) -> None:
        if len(raw) < _FIELDS or raw[0] != format_:
            raise MalformedMessage("the stream is cut short or not of this coder and version")
        self._raw = raw
        self._at = _FIELDS
        self._fields_end = _FIELDS

    def byte(self) -> int:
        """The next field of one byte."""
        return int(self._take_field(1)[0])

    def varint(self, largest: int) -> int:
        """The next field, an integer of 0 to `largest`."""
        value = 0
        for shift in range(0, _LARGEST_SHIFT + 1, 7):
            byte = self.byte()
            value |= (byte & 0x7F) << shift
            if byte < 0x80:
                break
        else:
            raise MalformedMessage("an integer of the stream does not end")
        if value > largest:
            raise MalformedMessage(f"the stream counts {value} where {largest} is the most there can be")
        return value

    def count(self, form: Form) -> int:
        """The number of symbols, refused where `form` has another one."""
        most = prod(form.shape)
        count = self.varint(most)
        row = prod(form.shape[1:])
        if (not form.open and count != most) or (row and count % row):
            raise MalformedMessage(f"the stream holds {count} symbols, the tensor {most}")
        return count

    def words(self, length: int) -> Bytes:
        """The next `length` bytes of code words; no field may follow."""
        if length > self.left:
            raise MalformedMessage("the stream is cut short")
        self._at += length
        return self._raw[self._at - length : self._at]

    @property
    def left(self) -> int:
        """Bytes not yet read."""
        return len(self._raw) - self._at

    def end(self) -> None:
        """Refuses a stream with bytes left over."""
        if self.left:
            raise MalformedMessage("the stream goes on after its last symbol")

    def verify(self, decoded: Iterable[Bytes]) -> None:
        """Refuses a stream with bytes left over, and one whose checksum is not that of its fields and `decoded`."""
        self.end()
        fields = self._raw[_FIELDS : self._fields_end].tobytes()
        if self._raw[1:_FIELDS].tobytes() != _checksum(int(self._raw[0]), fields, decoded):
            raise MalformedMessage("the checksum of the stream is not that of its symbols")

    def _take_field(self, length: int) -> Bytes:
        taken = self.words(length)
        self._fields_end = self._at
        return taken
