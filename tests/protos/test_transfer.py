"""The halves of a transfer: cut, put together, checked."""

import hashlib
import zlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedtune.errors import MalformedMessage
from protos.transfer import Body, DamagedTransfer, Incoming, Outgoing, Payload


def _whole(raw: bytes) -> Payload:
    return Body(raw).followed_by(b"")


def _incoming(raw: bytes) -> Incoming:
    return Incoming("t", len(raw), hashlib.sha256(raw).digest())


@given(st.lists(st.binary(max_size=20), max_size=4), st.integers(0, 90), st.integers(0, 90))
def test_a_cut_across_parts_is_the_cut_of_the_whole(parts: list[bytes], start: int, size: int) -> None:
    payload = Payload(tuple(parts), b"")
    assert payload.cut(start, size) == b"".join(parts)[start : start + size]
    assert payload.total_bytes == len(b"".join(parts))


@given(st.binary(max_size=50), st.lists(st.binary(max_size=50), min_size=1, max_size=3))
def test_payloads_that_share_a_body_have_the_hash_of_their_own_bytes(raw: bytes, heads: list[bytes]) -> None:
    body = Body(raw)
    for head in heads:
        payload = body.followed_by(head)
        assert payload.sha256 == hashlib.sha256(raw + head).digest()
        assert payload.parts[0] is raw


@given(st.binary(min_size=1, max_size=200), st.integers(1, 60))
def test_what_is_cut_is_what_is_taken(raw: bytes, chunk_bytes: int) -> None:
    outgoing, incoming = Outgoing("t", _whole(raw)), _incoming(raw)
    outgoing.begin()
    while not outgoing.all_sent:
        offset, data = outgoing.cut(chunk_bytes)
        incoming.add(offset, data, zlib.crc32(data))
    assert incoming.complete
    assert incoming.take() == raw
    assert outgoing.resent_bytes == 0


@given(st.binary(min_size=1, max_size=40), st.lists(st.tuples(st.integers(0, 40), st.integers(1, 40)), max_size=20))
def test_overlapping_chunks_change_nothing(raw: bytes, cuts: list[tuple[int, int]]) -> None:
    incoming = _incoming(raw)
    for back, size in [*cuts, (0, 40)]:
        start = max(0, incoming.held_bytes - back)
        chunk = raw[start : start + size]
        if chunk:
            incoming.add(start, chunk, zlib.crc32(chunk))
    assert incoming.take() == raw


@pytest.mark.parametrize(
    ("offset", "data", "says"),
    [(0, b"", "0 to 0"), (1, b"a", "left out"), (0, b"abcde", "of 4 bytes"), (4, b"a", "of 4 bytes")],
)
def test_chunks_that_cannot_be_are_named(offset: int, data: bytes, says: str) -> None:
    with pytest.raises(MalformedMessage, match=says):
        _incoming(b"abcd").add(offset, data, zlib.crc32(data))


def test_a_damaged_chunk_is_not_added() -> None:
    incoming = _incoming(b"abcd")
    with pytest.raises(DamagedTransfer, match="CRC-32"):
        incoming.add(0, b"abcd", zlib.crc32(b"abce"))
    assert incoming.held_bytes == 0


def test_a_message_that_is_not_the_announced_one_is_dropped_whole() -> None:
    incoming = _incoming(b"abcd")
    incoming.add(0, b"abce", zlib.crc32(b"abce"))
    with pytest.raises(DamagedTransfer, match="SHA-256"):
        incoming.take()
    assert incoming.held_bytes == 0
    incoming.add(0, b"abcd", zlib.crc32(b"abcd"))
    assert incoming.take() == b"abcd"


def test_after_a_rewind_the_sender_waits_and_goes_on_where_the_receiver_is() -> None:
    outgoing = Outgoing("t", _whole(b"abcdef"))
    outgoing.begin()
    assert not outgoing.waiting
    outgoing.cut(5)
    outgoing.acknowledge(2)
    outgoing.rewind()
    assert outgoing.in_flight_bytes == 0
    outgoing.begin()
    assert outgoing.waiting
    outgoing.acknowledge(4)
    assert outgoing.cut(10) == (4, b"ef")
    assert outgoing.resent_bytes == 1


def test_an_acknowledgement_of_more_than_there_is_is_refused() -> None:
    outgoing = Outgoing("t", _whole(b"abc"))
    with pytest.raises(MalformedMessage, match="4 bytes for a message of 3"):
        outgoing.acknowledge(4)


def test_memory_follows_what_arrived_not_what_was_announced() -> None:
    incoming = Incoming("t", 1 << 40, bytes(32))
    incoming.add(0, b"abc", zlib.crc32(b"abc"))
    assert incoming.held_bytes == 3
