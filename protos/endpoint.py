"""One side of a link, without I/O: frames in, frames out, and what happened; coordinator and client use the same."""

import zlib
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Generic, TypeVar

from fedtune.errors import MalformedMessage
from protos.fedtune.v1 import link_pb2
from protos.limits import MAX_TRANSFER_ID, MAX_WAITING_FRAMES, LinkLimits
from protos.transfer import DamagedTransfer, Incoming, Outgoing, Payload

FrameT = TypeVar("FrameT", link_pb2.ClientFrame, link_pb2.ServerFrame)
Frame = link_pb2.ClientFrame | link_pb2.ServerFrame


@dataclass(frozen=True, slots=True)
class Arrived:
    """A whole message came and its checksums fit."""

    transfer: str
    raw: bytes | bytearray


@dataclass(frozen=True, slots=True)
class Delivered:
    """The peer has the whole message, or does not want it."""

    transfer: str


@dataclass(frozen=True, slots=True)
class Rejected:
    """A transfer that will never be complete: by the peer (`ours`) or by this side."""

    transfer: str
    reason: str
    message: str
    ours: bool


Event = Arrived | Delivered | Rejected


class Endpoint(Generic[FrameT]):
    """Sends messages in the order given, puts together those that come.

    Guarantees: a message arrives unchanged or not at all; none arrives twice while `wanted` says no for the ids that
    have arrived; after `lost` only the missing bytes are sent again. Holds for any order of connections lost, and
    against any frames of the peer, which raise nothing but `MalformedMessage`.

    Args:
        frame: the type of the frames that this side sends.
        wanted: whether a message under this id should be taken; others are acknowledged and dropped.
    """

    def __init__(self, frame: type[FrameT], limits: LinkLimits, wanted: Callable[[str], bool]) -> None:
        self.limits = limits
        self.resent_bytes = 0
        self._frame: type[FrameT] = frame
        self._wanted = wanted
        self._control: deque[FrameT] = deque()
        self._outgoing: dict[str, Outgoing] = {}
        self._incoming: dict[str, Incoming] = {}

    # -- the application's side

    def send(self, transfer: str, payload: Payload) -> None:
        """Send a message; nothing happens while one under the same id is on its way."""
        self._outgoing.setdefault(transfer, Outgoing(transfer, payload))

    def say(self, frame: FrameT) -> None:
        """Send a frame before all chunks that wait."""
        self._control.append(frame)

    def forget(self, transfer: str) -> None:
        """Drop what is held of a message in either direction."""
        self._outgoing.pop(transfer, None)
        self._incoming.pop(transfer, None)

    def lost(self) -> None:
        """The connection is gone; what was sent and received stays."""
        self._control.clear()
        for outgoing in self._outgoing.values():
            outgoing.rewind()
        for incoming in self._incoming.values():
            incoming.live = False

    def peer_restarted(self) -> None:
        """The peer remembers nothing: drop all transfers of both directions."""
        self._control.clear()
        self._outgoing.clear()
        self._incoming.clear()

    def has_begun(self, transfer: str) -> bool:
        """Whether some of a message that the peer has not acknowledged was sent, over this connection or another."""
        return transfer in self._outgoing and not self._outgoing[transfer].fresh

    @property
    def unsent(self) -> int:
        """Messages that the peer has not acknowledged."""
        return len(self._outgoing)

    @property
    def held_bytes(self) -> int:
        """Bytes of half-received messages."""
        return sum(incoming.held_bytes for incoming in self._incoming.values())

    # -- the connection's side

    def next_frame(self) -> FrameT | None:
        """The frame to send next, or None where there is nothing to say or the window is full."""
        if self._control:
            return self._control.popleft()
        in_flight = sum(outgoing.in_flight_bytes for outgoing in self._outgoing.values())
        for outgoing in self._outgoing.values():
            if not outgoing.begun:
                return self._begin(outgoing)
            if not outgoing.all_sent:
                ready = not outgoing.waiting and in_flight < self.limits.window_bytes
                return self._chunk(outgoing) if ready else None
        return None

    def receive(self, frame: Frame) -> Event | None:
        """Take a frame of the peer; frames that are not about transfers are ignored.

        Raises:
            MalformedMessage: where the frame breaks the protocol, or the peer does not read what it asked for; the
                connection should end.
        """
        if len(self._control) > MAX_WAITING_FRAMES:
            raise MalformedMessage(f"more than {MAX_WAITING_FRAMES} answers wait: the other side does not read them")
        match frame.WhichOneof("frame"):
            case "begin":
                return self._on_begin(frame.begin)
            case "chunk":
                return self._on_chunk(frame.chunk)
            case "ack":
                return self._on_ack(frame.ack)
            case "reject":
                return self._on_reject(frame.reject)
        return None

    # -- sending

    def _begin(self, outgoing: Outgoing) -> FrameT:
        outgoing.begin()
        frame: FrameT = self._frame()
        frame.begin.transfer = outgoing.transfer
        frame.begin.total_bytes = outgoing.total_bytes
        frame.begin.sha256 = outgoing.payload.sha256
        return frame

    def _chunk(self, outgoing: Outgoing) -> FrameT:
        resent = outgoing.resent_bytes
        offset, data = outgoing.cut(self.limits.chunk_bytes)
        self.resent_bytes += outgoing.resent_bytes - resent
        frame: FrameT = self._frame()
        chunk = frame.chunk
        chunk.transfer, chunk.offset, chunk.data, chunk.crc32 = outgoing.transfer, offset, data, zlib.crc32(data)
        return frame

    def _on_ack(self, ack: link_pb2.Ack) -> Event | None:
        outgoing = self._outgoing.get(ack.transfer)
        if outgoing is None:
            return None
        if ack.done:
            self.forget(ack.transfer)
            return Delivered(ack.transfer)
        if ack.rewind:
            outgoing.rewind()
        else:
            outgoing.acknowledge(ack.offset)
        return None

    def _on_reject(self, reject: link_pb2.Reject) -> Event | None:
        if reject.transfer not in self._outgoing:
            return None
        self.forget(reject.transfer)
        return Rejected(reject.transfer, reject.reason[:64], reject.message[:400], ours=False)

    # -- receiving

    def _on_begin(self, begin: link_pb2.Begin) -> Event | None:
        if not 0 < len(begin.transfer) <= MAX_TRANSFER_ID or len(begin.sha256) != 32:
            raise MalformedMessage(f"a Begin without an id of 1 to {MAX_TRANSFER_ID} characters or without a SHA-256")
        if not self._wanted(begin.transfer):
            self._ack(begin.transfer, begin.total_bytes, done=True)
            return None
        if begin.total_bytes > self.limits.max_message_bytes:
            text = f"a message of {begin.total_bytes} bytes is larger than the limit of {self.limits.max_message_bytes}"
            return self._reject(begin.transfer, "oversize", text)
        incoming = self._resume(begin) or self._open(begin)
        incoming.live = True
        if incoming.complete:
            return self._complete(incoming)
        self._ack(begin.transfer, incoming.held_bytes)
        return None

    def _resume(self, begin: link_pb2.Begin) -> Incoming | None:
        incoming = self._incoming.get(begin.transfer)
        same = incoming and (incoming.total_bytes, incoming.sha256) == (begin.total_bytes, begin.sha256)
        return incoming if same else None

    def _open(self, begin: link_pb2.Begin) -> Incoming:
        self._incoming.pop(begin.transfer, None)
        if len(self._incoming) >= self.limits.max_open_transfers:
            self._drop_one_stale()
        incoming = self._incoming[begin.transfer] = Incoming(begin.transfer, begin.total_bytes, begin.sha256)
        return incoming

    def _drop_one_stale(self) -> None:
        stale = next((i.transfer for i in self._incoming.values() if not i.live), None)
        if stale is None:
            raise MalformedMessage(f"more than {self.limits.max_open_transfers} messages begun at once")
        del self._incoming[stale]

    def _on_chunk(self, chunk: link_pb2.Chunk) -> Event | None:
        incoming = self._incoming.get(chunk.transfer)
        if incoming is None:
            self._on_stray_chunk(chunk)
            return None
        if not incoming.live:
            return None
        try:
            incoming.add(chunk.offset, chunk.data, chunk.crc32)
            if incoming.complete:
                return self._complete(incoming)
        except DamagedTransfer as error:
            return self._ask_again(incoming, str(error))
        except MalformedMessage as error:
            return self._reject(chunk.transfer, "malformed", str(error))
        if incoming.held_bytes - incoming.acked_bytes >= self.limits.window_bytes // 4:
            incoming.acked_bytes = incoming.held_bytes
            self._ack(chunk.transfer, incoming.held_bytes)
        return None

    def _on_stray_chunk(self, chunk: link_pb2.Chunk) -> None:
        if self._wanted(chunk.transfer):
            raise MalformedMessage("a chunk of a message that was not begun")
        self._ack(chunk.transfer[:MAX_TRANSFER_ID], chunk.offset, done=True)

    def _complete(self, incoming: Incoming) -> Event | None:
        try:
            raw = incoming.take()
        except DamagedTransfer as error:
            return self._ask_again(incoming, str(error))
        del self._incoming[incoming.transfer]
        self._ack(incoming.transfer, incoming.total_bytes, done=True)
        return Arrived(incoming.transfer, raw)

    def _ask_again(self, incoming: Incoming, why: str) -> Event | None:
        incoming.faults += 1
        if incoming.faults >= self.limits.max_faults:
            return self._reject(incoming.transfer, "damaged", f"{why} ({incoming.faults} times)")
        incoming.live = False
        self._ack(incoming.transfer, incoming.held_bytes, rewind=True)
        return None

    def _ack(self, transfer: str, offset: int, *, done: bool = False, rewind: bool = False) -> None:
        frame: FrameT = self._frame()
        frame.ack.transfer, frame.ack.offset, frame.ack.done, frame.ack.rewind = transfer, offset, done, rewind
        self.say(frame)

    def _reject(self, transfer: str, reason: str, message: str) -> Rejected:
        self._incoming.pop(transfer, None)
        frame: FrameT = self._frame()
        frame.reject.transfer, frame.reject.reason, frame.reject.message = transfer, reason, message
        self.say(frame)
        return Rejected(transfer, reason, message, ours=True)
