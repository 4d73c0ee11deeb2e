"""Clients with a valid key that do not keep to the protocol: they are stopped by name, and the others go on."""

import hashlib
import queue
import socket
import ssl
import time
import zlib
from collections.abc import Iterator
from typing import Any

import grpc
import pytest

from client.link import ClientKeys
from client.link.channel import OPTIONS
from protos.fedtune.v1.link_pb2 import Begin, Chunk, ClientFrame, Heartbeat, Hello, ServerFrame
from protos.fedtune.v1.link_pb2_grpc import LinkStub
from protos.flower import Message
from protos.limits import PROTOCOL
from server.keys import KeyFolder
from server.link import LinkGrid
from tests.link.harness import QUICK, ClientThread, ask, coordinator, echo, eventually, flower_id, payload_of


class Raw:
    """A client that says what the test tells it to."""

    def __init__(self, grid: LinkGrid, keys: KeyFolder, name: str) -> None:
        self._out: queue.SimpleQueue[ClientFrame | None] = queue.SimpleQueue()
        credentials = ClientKeys(keys.bundle(name)).grpc()
        options = [*OPTIONS, ("grpc.max_send_message_length", -1)]
        self._channel = grpc.secure_channel(str(grid.address), credentials, options=options)
        self.frames: Iterator[ServerFrame] = LinkStub(self._channel).Connect(iter(self._out.get, None))

    def say(self, **frame: Any) -> None:
        self._out.put(ClientFrame(**frame))

    def enter(self) -> None:
        self.say(hello=Hello(protocol=PROTOCOL, session="raw"))
        assert next(self.frames).HasField("welcome")

    def hear(self, kind: str) -> Any:
        """The next frame of this kind; fails where the stream ends before."""
        for frame in self.frames:
            if frame.WhichOneof("frame") == kind:
                return getattr(frame, kind)
        raise AssertionError(f"no {kind} came")

    def __enter__(self) -> "Raw":
        return self

    def __exit__(self, *_: object) -> None:
        self._out.put(None)
        self._channel.close()


def _chunk(transfer: str, offset: int, data: bytes, *, damaged: bool = False) -> Chunk:
    return Chunk(transfer=transfer, offset=offset, data=data, crc32=zlib.crc32(data) ^ damaged)


def _begin(transfer: str, raw: bytes, total: int | None = None) -> Begin:
    return Begin(
        transfer=transfer, total_bytes=len(raw) if total is None else total, sha256=hashlib.sha256(raw).digest()
    )


def _error_of(grid: LinkGrid, ids: list[str]) -> str:
    assert grid.wait(20, ids)
    (reply,) = grid.pull_messages(ids)
    assert grid.name_of(reply.metadata.src_node_id) == "a"
    return reply.error.reason or ""


@pytest.mark.parametrize(
    ("total", "chunk", "damaged", "says"),
    [
        (1 << 40, b"", False, "oversize"),
        (3, b"abcd", False, "malformed"),
        (4, b"", False, "malformed"),
        (4, b"abcd", True, "damaged"),
    ],
)
def test_a_bad_reply_is_named_and_the_round_goes_on(
    keys: KeyFolder, total: int, chunk: bytes, damaged: bool, says: str
) -> None:
    with coordinator(keys) as grid, ClientThread(grid.address, keys, "b"), Raw(grid, keys, "a") as raw:
        raw.enter()
        eventually(lambda: len(grid.get_node_ids()) == 2)
        bad, good = (grid.push_messages(ask(grid, b"abc", [name])) for name in "ab")
        raw.hear("chunk")
        for _ in range(QUICK.max_faults):
            raw.say(begin=_begin(bad[0], b"", total))
            raw.say(chunk=_chunk(bad[0], 0, chunk, damaged=damaged))
        assert raw.hear("reject").reason == says
        assert _error_of(grid, bad).startswith(says)
        assert grid.wait(20, good)
        (reply,) = grid.pull_messages(good)
        assert payload_of(reply) == b"cba"


def test_a_reply_that_is_no_flower_message_is_named(keys: KeyFolder) -> None:
    with coordinator(keys) as grid, Raw(grid, keys, "a") as raw:
        raw.enter()
        ids = grid.push_messages(ask(grid, b"abc", ["a"]))
        raw.hear("chunk")
        raw.say(begin=_begin(ids[0], b"garbage"))
        raw.say(chunk=_chunk(ids[0], 0, b"garbage"))
        assert _error_of(grid, ids).startswith("malformed-message")


def test_a_reply_for_another_client_is_dropped(keys: KeyFolder) -> None:
    """Who knows another's message id still cannot answer in its place."""
    with coordinator(keys) as grid, Raw(grid, keys, "a") as raw:
        raw.enter()
        ids = grid.push_messages(ask(grid, b"abc", ["b"]))
        raw.say(begin=_begin(ids[0], b"mine"))
        assert raw.hear("ack").done
        raw.say(chunk=_chunk(ids[0], 0, b"mine"))
        assert raw.hear("ack").done
        with ClientThread(grid.address, keys, "b"):
            assert grid.wait(20, ids)
            assert payload_of(grid.pull_messages(ids)[0]) == b"cba"


def test_a_reply_that_claims_another_sender_has_the_certificates_name(keys: KeyFolder) -> None:
    from protos.flower import stamp

    def lie(message: Message) -> Message:
        return stamp(echo(message), src_node_id=flower_id("b"), run_id=99, group_id="9", reply_to_message_id="x")

    with coordinator(keys) as grid, ClientThread(grid.address, keys, "a", lie):
        eventually(grid.get_node_ids)
        (reply,) = grid.send_and_receive(ask(grid, b"abc"), timeout=20)
        assert grid.name_of(reply.metadata.src_node_id) == "a"
        assert (reply.metadata.run_id, reply.metadata.group_id) == (7, "")


def test_who_says_no_hello_is_shown_out(keys: KeyFolder) -> None:
    with coordinator(keys) as grid:
        with Raw(grid, keys, "a") as early:
            early.say(heartbeat=Heartbeat())
            assert "no Hello" in early.hear("refusal").message
        start = time.monotonic()
        with Raw(grid, keys, "a") as silent:
            assert "no Hello came in time" in silent.hear("refusal").message
        assert time.monotonic() - start < 2 * QUICK.hello_timeout_s
        assert grid.statuses() == []


def test_who_falls_silent_after_the_hello_is_dropped(keys: KeyFolder) -> None:
    with coordinator(keys) as grid, Raw(grid, keys, "a") as raw:
        raw.enter()
        eventually(grid.get_node_ids)
        eventually(lambda: not grid.get_node_ids(), timeout_s=4 * QUICK.silence_s)


def test_chunks_out_of_the_blue_end_the_connection(keys: KeyFolder) -> None:
    with coordinator(keys) as grid, Raw(grid, keys, "a") as raw:
        raw.enter()
        ids = grid.push_messages(ask(grid, b"abc", ["a"]))
        raw.hear("chunk")
        raw.say(chunk=_chunk(ids[0], 0, b"abc"))
        refusal = raw.hear("refusal")
        assert (refusal.reason, refusal.retryable) == ("malformed", True)


def test_a_frame_larger_than_agreed_ends_the_connection(keys: KeyFolder) -> None:
    with coordinator(keys) as grid, Raw(grid, keys, "a") as raw:
        raw.enter()
        raw.say(chunk=_chunk("m", 0, bytes(QUICK.chunk_bytes + (1 << 20))))
        with pytest.raises(grpc.RpcError, match="larger than max"):
            raw.hear("refusal")
        eventually(lambda: not grid.get_node_ids())


def test_a_connection_without_a_handshake_is_closed(keys: KeyFolder) -> None:
    with coordinator(keys) as grid, socket.create_connection(("127.0.0.1", grid.address.port)) as idle:
        idle.settimeout(4 * QUICK.hello_timeout_s)
        start = time.monotonic()
        assert idle.recv(1) == b""
        assert time.monotonic() - start < 3 * QUICK.hello_timeout_s


def test_a_connection_without_a_stream_is_closed(keys: KeyFolder) -> None:
    bundle = keys.bundle("a")
    context = ssl.create_default_context(cafile=str(bundle / "ca.crt"))
    context.load_cert_chain(bundle / "client.crt", bundle / "client.key")
    context.set_alpn_protocols(["h2"])
    with (
        coordinator(keys) as grid,
        socket.create_connection(("127.0.0.1", grid.address.port)) as plain,
        context.wrap_socket(plain, server_hostname="localhost") as idle,
    ):
        idle.settimeout(6 * QUICK.hello_timeout_s)
        start = time.monotonic()
        while idle.recv(4096):
            pass
        assert time.monotonic() - start < 5 * QUICK.hello_timeout_s
