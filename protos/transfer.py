"""The two halves of one message on its way in chunks, without I/O: `Outgoing` cuts it, `Incoming` puts it together."""

import hashlib
import zlib
from dataclasses import dataclass

from fedtune.errors import MalformedMessage


class DamagedTransfer(MalformedMessage):
    """A checksum does not fit: the bytes were changed on the way and may be asked for again."""


@dataclass(frozen=True, slots=True)
class Payload:
    """The bytes of one message in one or more parts; parts may be shared between messages."""

    parts: tuple[bytes, ...]
    sha256: bytes

    @property
    def total_bytes(self) -> int:
        """The length of the parts together."""
        return sum(map(len, self.parts))

    def cut(self, start: int, size: int) -> bytes:
        """Bytes `start` to `start + size`, fewer at the end."""
        pieces = []
        for part in self.parts:
            if start < len(part) and size > 0:
                piece = part[start : start + size]
                size -= len(piece)
                pieces.append(piece)
            start = max(0, start - len(part))
        return pieces[0] if len(pieces) == 1 else b"".join(pieces)


class Body:
    """The part that many messages share: hashed once, kept once."""

    def __init__(self, raw: bytes) -> None:
        self._raw = raw
        self._hasher = hashlib.sha256(raw)

    def followed_by(self, head: bytes) -> Payload:
        """The payload of one message: the shared bytes, then its own."""
        hasher = self._hasher.copy()
        hasher.update(head)
        return Payload((self._raw, head), hasher.digest())


class Outgoing:
    """The sender's half.

    The first time, chunks follow the Begin at once. After a lost connection or a damaged chunk the sender begins again
    and waits until the receiver has said how much it holds.
    """

    def __init__(self, transfer: str, payload: Payload) -> None:
        self.transfer = transfer
        self.payload = payload
        self.total_bytes = payload.total_bytes
        self.begun = False
        self.sent_bytes = 0
        self.acked_bytes = 0
        self.resent_bytes = 0
        self._reached = 0
        self.waiting = False
        """Whether the receiver has to say first how much it holds."""
        self.fresh = True
        """Whether nothing of it was ever sent."""

    @property
    def in_flight_bytes(self) -> int:
        """Sent and not yet acknowledged."""
        return self.sent_bytes - self.acked_bytes

    @property
    def all_sent(self) -> bool:
        """Whether the last byte has been sent; it may have to be sent again."""
        return not self.waiting and self.sent_bytes == self.total_bytes

    def begin(self) -> None:
        """A Begin goes out."""
        self.begun = True
        self.waiting = not self.fresh
        self.fresh = False

    def cut(self, chunk_bytes: int) -> tuple[int, bytes]:
        """The next chunk and its offset; counts as sent."""
        offset = self.sent_bytes
        data = self.payload.cut(offset, chunk_bytes)
        self.sent_bytes += len(data)
        self.resent_bytes += max(0, min(self._reached, self.sent_bytes) - offset)
        self._reached = max(self._reached, self.sent_bytes)
        return offset, data

    def acknowledge(self, offset: int) -> None:
        """The receiver holds the first `offset` bytes.

        Raises:
            MalformedMessage: where the message is not that long.
        """
        if offset > self.total_bytes:
            raise MalformedMessage(f"an acknowledgement of {offset} bytes for a message of {self.total_bytes}")
        if self.waiting:
            self.waiting = False
            self.sent_bytes = self.acked_bytes = offset
        else:
            self.acked_bytes = max(self.acked_bytes, offset)
            self.sent_bytes = max(self.sent_bytes, self.acked_bytes)

    def rewind(self) -> None:
        """Nothing is on the way any more: begin again, and ask what arrived."""
        self.begun = self.waiting = False
        self.sent_bytes = self.acked_bytes


class Incoming:
    """The receiver's half: memory grows with what arrived, never with what was announced."""

    def __init__(self, transfer: str, total_bytes: int, sha256: bytes) -> None:
        self.transfer = transfer
        self.total_bytes = total_bytes
        self.sha256 = sha256
        self.live = True
        """Whether its Begin came over the present connection; chunks count only then."""
        self.faults = 0
        self.acked_bytes = 0
        self._buffer = bytearray()
        self._hasher = hashlib.sha256()

    @property
    def held_bytes(self) -> int:
        """How much of the message is here."""
        return len(self._buffer)

    @property
    def complete(self) -> bool:
        """Whether all announced bytes are here; `take` still has to check them."""
        return self.held_bytes == self.total_bytes

    def add(self, offset: int, data: bytes, crc32: int) -> None:
        """Append a chunk; what is here already is skipped.

        Raises:
            DamagedTransfer: the chunk's checksum does not fit; nothing was added.
            MalformedMessage: the chunk is empty, leaves a gap or goes beyond the announced length.
        """
        end = offset + len(data)
        if not data or end > self.total_bytes:
            raise MalformedMessage(f"a chunk of bytes {offset} to {end} in a message of {self.total_bytes} bytes")
        if offset > self.held_bytes:
            raise MalformedMessage(f"a chunk at byte {offset} where byte {self.held_bytes} is next: one was left out")
        if zlib.crc32(data) != crc32:
            raise DamagedTransfer(f"the chunk at byte {offset} was changed on the way: its CRC-32 does not fit")
        fresh = data[self.held_bytes - offset :]
        self._buffer += fresh
        self._hasher.update(fresh)

    def take(self) -> bytes | bytearray:
        """The whole message; this half is empty afterwards.

        Raises:
            DamagedTransfer: its SHA-256 is not the announced one; what was held is dropped.
        """
        if self._hasher.digest() != self.sha256:
            self._buffer, self._hasher, self.acked_bytes = bytearray(), hashlib.sha256(), 0
            raise DamagedTransfer("the message was changed on the way: its SHA-256 does not fit")
        raw, self._buffer = self._buffer, bytearray()
        return raw
