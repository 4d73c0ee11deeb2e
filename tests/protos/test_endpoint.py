"""Two endpoints over a connection that breaks, damages and restarts: all arrives once, or is rejected by name."""

import hashlib
import zlib
from collections import deque

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, invariant, precondition, rule

from fedtune.errors import MalformedMessage
from protos.endpoint import Arrived, Delivered, Endpoint, Rejected
from protos.fedtune.v1.link_pb2 import ClientFrame, ServerFrame
from protos.limits import MAX_WAITING_FRAMES, LinkLimits
from protos.transfer import Body

LIMITS = LinkLimits(max_message_bytes=64, chunk_bytes=5, window_bytes=12, max_open_transfers=2)


def _begin(transfer: str, raw: bytes, total: int | None = None) -> ServerFrame:
    frame = ServerFrame()
    frame.begin.transfer, frame.begin.sha256 = transfer, hashlib.sha256(raw).digest()
    frame.begin.total_bytes = len(raw) if total is None else total
    return frame


def _chunk(transfer: str, offset: int, data: bytes, crc32: int | None = None) -> ServerFrame:
    frame = ServerFrame()
    frame.chunk.transfer, frame.chunk.offset, frame.chunk.data = transfer, offset, data
    frame.chunk.crc32 = zlib.crc32(data) if crc32 is None else crc32
    return frame


def _receiver() -> Endpoint[ClientFrame]:
    return Endpoint(ClientFrame, LIMITS, wanted=lambda _: True)


class Link(RuleBasedStateMachine):
    """A coordinator and a client; any frame may be lost with its connection, and chunks may be damaged."""

    transfers = Bundle("transfers")

    def __init__(self) -> None:
        super().__init__()
        self.sent: dict[str, bytes] = {}
        self.arrived: dict[str, bytes] = {}
        self.delivered: set[str] = set()
        self.server = Endpoint(ServerFrame, LIMITS, wanted=lambda _: True)
        self.client = Endpoint(ClientFrame, LIMITS, wanted=lambda transfer: transfer not in self.arrived)
        self.down: deque[bytes] = deque()
        self.up: deque[bytes] = deque()
        self.damage = 0

    @rule(target=transfers, raw=st.binary(max_size=40), head=st.binary(max_size=8))
    def push(self, raw: bytes, head: bytes) -> str:
        transfer = f"m{len(self.sent)}"
        self.sent[transfer] = raw + head
        self.server.send(transfer, Body(raw).followed_by(head))
        return transfer

    @rule()
    def server_speaks(self) -> None:
        frame = self.server.next_frame()
        if frame is not None:
            self.down.append(frame.SerializeToString())

    @rule()
    def client_speaks(self) -> None:
        frame = self.client.next_frame()
        if frame is not None:
            self.up.append(frame.SerializeToString())

    @precondition(lambda self: self.down)
    @rule()
    def client_hears(self) -> None:
        event = self.client.receive(ServerFrame.FromString(self.down.popleft()))
        if isinstance(event, Arrived):
            assert event.transfer not in self.arrived
            self.arrived[event.transfer] = event.raw
        assert not isinstance(event, Rejected)

    @precondition(lambda self: self.up)
    @rule()
    def server_hears(self) -> None:
        event = self.server.receive(ClientFrame.FromString(self.up.popleft()))
        if isinstance(event, Delivered):
            assert event.transfer in self.arrived
            self.delivered.add(event.transfer)

    @rule()
    def connection_breaks(self) -> None:
        self.down.clear()
        self.up.clear()
        self.server.lost()
        self.client.lost()

    @precondition(lambda self: self.down and self.damage < LIMITS.max_faults - 1)
    @rule(flip=st.integers(1, 255))
    def a_chunk_is_damaged(self, flip: int) -> None:
        frame = ServerFrame.FromString(self.down[0])
        if frame.WhichOneof("frame") == "chunk":
            frame.chunk.data = bytes([frame.chunk.data[0] ^ flip]) + frame.chunk.data[1:]
            self.down[0] = frame.SerializeToString()
            self.damage += 1

    @rule(transfer=transfers)
    def sent_again_whole(self, transfer: str) -> None:
        self.server.send(transfer, Body(self.sent[transfer]).followed_by(b""))

    @invariant()
    def what_arrived_is_what_was_sent(self) -> None:
        assert all(self.sent[transfer] == raw for transfer, raw in self.arrived.items())

    @invariant()
    def memory_is_bounded(self) -> None:
        assert self.client.held_bytes <= LIMITS.max_open_transfers * LIMITS.max_message_bytes

    def teardown(self) -> None:
        self.connection_breaks()
        for _ in range(400):
            self.server_speaks()
            self.client_speaks()
            if self.down:
                self.client_hears()
            if self.up:
                self.server_hears()
        assert self.arrived == self.sent
        assert self.server.unsent == 0


TestLink = Link.TestCase
TestLink.settings = settings(max_examples=120, stateful_step_count=40, deadline=None)


def test_after_a_break_only_missing_bytes_are_sent_again() -> None:
    server, client = Endpoint(ServerFrame, LIMITS, lambda _: True), _receiver()
    server.send("m", Body(bytes(40)).followed_by(b""))
    for _ in range(3):
        frame = server.next_frame()
        assert frame is not None
        client.receive(frame)
    server.lost()
    client.lost()
    offsets = []
    while server.unsent:
        if (frame := server.next_frame()) is not None:
            if frame.WhichOneof("frame") == "chunk":
                offsets.append(frame.chunk.offset)
            client.receive(frame)
        if (answer := client.next_frame()) is not None:
            server.receive(answer)
    assert offsets[0] == 10
    assert server.resent_bytes == 0


def test_no_more_than_the_window_and_a_chunk_is_on_the_way() -> None:
    server = Endpoint(ServerFrame, LIMITS, lambda _: True)
    server.send("m", Body(bytes(60)).followed_by(b""))
    sent = 0
    while (frame := server.next_frame()) is not None:
        sent += len(frame.chunk.data)
    assert LIMITS.window_bytes <= sent <= LIMITS.window_bytes + LIMITS.chunk_bytes


def test_oversize_is_rejected_before_memory_is_taken() -> None:
    client = _receiver()
    event = client.receive(_begin("m", b"", total=65))
    assert event == Rejected("m", "oversize", "a message of 65 bytes is larger than the limit of 64", ours=True)
    assert client.held_bytes == 0
    answer = client.next_frame()
    assert answer is not None
    assert answer.reject.reason == "oversize"


def test_a_message_that_is_damaged_again_and_again_is_rejected() -> None:
    client = _receiver()
    event = None
    for _ in range(LIMITS.max_faults):
        client.receive(_begin("m", b"abc"))
        event = client.receive(_chunk("m", 0, b"abc", crc32=1))
    assert isinstance(event, Rejected)
    assert event.reason == "damaged"


def test_a_reply_with_other_bytes_under_the_same_id_replaces_the_half_received_one() -> None:
    client = _receiver()
    client.receive(_begin("m", b"abcdef"))
    client.receive(_chunk("m", 0, b"abc"))
    client.lost()
    client.receive(_begin("m", b"uvwxyz"))
    assert client.receive(_chunk("m", 0, b"uvwxyz")) == Arrived("m", b"uvwxyz")


def test_too_many_messages_at_once_end_the_connection() -> None:
    client = _receiver()
    client.receive(_begin("a", b"abc"))
    client.receive(_begin("b", b"abc"))
    with pytest.raises(MalformedMessage, match="begun at once"):
        client.receive(_begin("c", b"abc"))
    client.lost()
    client.receive(_begin("c", b"abc"))


def test_a_chunk_out_of_the_blue_ends_the_connection() -> None:
    with pytest.raises(MalformedMessage, match="not begun"):
        _receiver().receive(_chunk("m", 0, b"abc"))


def test_what_is_not_wanted_is_acknowledged_and_dropped() -> None:
    client = Endpoint(ClientFrame, LIMITS, wanted=lambda _: False)
    assert client.receive(_begin("m", b"abc")) is None
    answer = client.next_frame()
    assert answer is not None
    assert answer.ack.done
    assert client.receive(_chunk("m", 0, b"abc")) is None
    assert client.held_bytes == 0


def test_who_asks_for_answers_and_never_reads_them_ends_the_connection() -> None:
    client = Endpoint(ClientFrame, LIMITS, wanted=lambda _: False)
    for _ in range(MAX_WAITING_FRAMES + 1):
        client.receive(_begin("m", b"abc"))
    with pytest.raises(MalformedMessage, match="not read them"):
        client.receive(_begin("m", b"abc"))
    client.lost()
    client.receive(_begin("m", b"abc"))


_IDS = st.sampled_from(["a", "b", "c", "", "x" * 65])
_SIZES = st.one_of(st.integers(0, 70), st.just(2**64 - 1))
_FRAMES = st.one_of(
    st.builds(_begin, _IDS, st.binary(max_size=8), st.one_of(st.none(), _SIZES)),
    st.builds(_chunk, _IDS, _SIZES, st.binary(max_size=9), st.one_of(st.none(), st.integers(0, 2**32 - 1))),
    st.builds(
        lambda t, o, d, r: ServerFrame(ack={"transfer": t, "offset": o, "done": d, "rewind": r}),
        _IDS,
        _SIZES,
        st.booleans(),
        st.booleans(),
    ),
    st.builds(lambda t, m: ServerFrame(reject={"transfer": t, "reason": m, "message": m}), _IDS, st.text(max_size=5)),
    st.just(ServerFrame()),
)


@settings(max_examples=400)
@given(st.lists(_FRAMES, max_size=30))
def test_no_frames_raise_anything_but_malformed_nor_take_memory(frames: list[ServerFrame]) -> None:
    client = _receiver()
    client.send("a", Body(b"0123456789").followed_by(b"x"))
    for frame in frames:
        try:
            client.receive(frame)
        except MalformedMessage:
            client.lost()
        while client.next_frame() is not None:
            pass
        assert client.held_bytes <= LIMITS.max_open_transfers * LIMITS.max_message_bytes
