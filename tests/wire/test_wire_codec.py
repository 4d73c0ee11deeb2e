"""Messages survive the wire bit for bit; what is cut, changed or foreign is refused, never read as something else."""

import hashlib
import json
import struct

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save as save_tensors

from fedtune.audit.ledger import Head, Offer
from fedtune.errors import MalformedMessage, OversizeMessage, ProtocolError
from fedtune.wire import Evaluation, Refusal, Task, Update, decode, encode
from fedtune.wire.envelope import OVERHEAD_BYTES, pack, unpack

names = st.text(min_size=1, max_size=12)
counts = st.integers(0, 2**53)
finite = st.floats(allow_nan=False, allow_infinity=False)
dtypes = st.sampled_from([torch.float32, torch.float16, torch.bfloat16, torch.uint8, torch.int64])


@st.composite
def tensors(draw):
    shape = draw(st.lists(st.integers(0, 4), max_size=3))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 99)))
    return (torch.randn(shape, generator=generator) * 10).to(draw(dtypes))


states = st.dictionaries(names, tensors(), max_size=4)
ranks = st.integers(0, 4096)
hexes = st.text("0123456789abcdef", max_size=64)
json_values = st.recursive(st.none() | st.booleans() | st.integers() | st.text(max_size=5), st.lists, max_leaves=5)
updates = st.builds(
    Update,
    run=names,
    round=counts,
    client=names,
    base=hexes,
    stages=st.lists(names, max_size=3).map(tuple),
    tensors=states,
    examples=st.integers(-100, 2**53),
    metrics=st.dictionaries(names, finite, max_size=3),
    rank=ranks,
    control=states,
)
digests = st.binary(min_size=32, max_size=32)
heads = st.builds(
    Head,
    public_key=digests.map(bytes.hex),
    seq=counts,
    hash=digests.map(bytes.hex),
    signature=st.binary(min_size=64, max_size=64).map(bytes.hex),
)
offers = st.builds(Offer, head=heads, since=st.integers(-1, 2**53), links=st.lists(digests, max_size=4).map(tuple))
tasks = st.builds(
    Task,
    kind=st.sampled_from(["train", "evaluate", "gradient"]),
    run=names,
    round=counts,
    recipe=st.dictionaries(names, json_values, max_size=3),
    recipe_fingerprint=hexes,
    model_fingerprint=hexes,
    base=hexes,
    state=states,
    sketch=st.dictionaries(names, finite, max_size=3),
    shared=states,
    shared_digest=hexes,
    rank=ranks,
    shift=states,
    shift_from=hexes,
    shift_key=hexes,
    control=states,
    ledger=st.none() | offers,
)
evaluations = st.builds(
    Evaluation,
    run=names,
    round=counts,
    client=names,
    base=hexes,
    examples=counts,
    loss_sum=finite,
    correct=st.floats(0, 1e9),
)
refusals = st.builds(Refusal, run=names, round=counts, client=names, reason=names, message=st.text(max_size=50))
messages = updates | tasks | evaluations | refusals


def same(left, right):
    """Equal in every field, tensors by dtype, shape and value."""
    if isinstance(left, torch.Tensor):
        return left.dtype == right.dtype and left.shape == right.shape and torch.equal(left, right)
    if isinstance(left, dict):
        return left.keys() == right.keys() and all(same(left[k], right[k]) for k in left)
    return left == right


@given(messages)
def test_decode_gives_back_what_was_encoded(message):
    decoded = decode(encode(message))
    assert type(decoded) is type(message)
    assert all(same(getattr(message, f), getattr(decoded, f)) for f in message.__slots__)


@given(messages)
def test_encoding_is_a_function_of_the_message(message):
    assert encode(message) == encode(decode(encode(message)))


@given(messages, st.data())
@settings(max_examples=200)
def test_every_cut_is_refused(message, data):
    raw = encode(message)
    with pytest.raises(MalformedMessage):
        decode(raw[: data.draw(st.integers(0, len(raw) - 1))])


@given(messages, st.data())
@settings(max_examples=300)
def test_every_changed_bit_is_refused(message, data):
    raw = bytearray(encode(message))
    position = data.draw(st.integers(0, len(raw) - 1))
    raw[position] ^= 1 << data.draw(st.integers(0, 7))
    with pytest.raises(MalformedMessage):
        decode(bytes(raw))


@given(st.binary(max_size=200))
def test_foreign_bytes_are_refused(raw):
    with pytest.raises(ProtocolError):
        decode(raw)


@given(st.binary(max_size=60), st.sampled_from(["task", "update", "evaluation", "refusal"]))
def test_a_sound_envelope_around_a_foreign_header_is_refused(header, kind):
    with pytest.raises(ProtocolError):
        decode(pack(kind, header, {}))


@given(st.binary(max_size=100))
def test_a_sound_checksum_around_a_foreign_body_is_refused(body):
    prefix = struct.pack(">4sBBIQ", b"FDTN", 1, 1, 2, len(body)) + b"{}" + body
    raw = prefix + hashlib.sha256(prefix).digest()[:16]
    with pytest.raises(ProtocolError):
        decode(raw)


def test_what_is_over_the_limit_is_refused_before_it_is_read():
    raw = encode(Update("r", 1, "c", "", (), {"w": torch.zeros(1000)}, 1))
    with pytest.raises(OversizeMessage, match=f"{len(raw)} bytes is over the limit of 100"):
        decode(raw, max_bytes=100)


def test_a_body_length_of_exabytes_takes_no_memory():
    raw = struct.pack(">4sBBIQ", b"FDTN", 1, 1, 2, 2**60) + b"{}" + b"\0" * 16
    with pytest.raises(MalformedMessage):
        decode(raw)


@pytest.mark.parametrize("change", [{"extra": 1}, {"round": "1"}, {"round": -1}, {"client": 5}, {"examples": 1.5}])
def test_headers_take_no_unknown_keys_and_no_other_types(change):
    header = json.loads(unpack(encode(Update("r", 1, "c", "", (), {}, 1))).header) | change
    with pytest.raises(MalformedMessage, match=next(iter(change))):
        decode(pack("update", json.dumps(header).encode(), {}))


@pytest.mark.parametrize("word", ["NaN", "Infinity", "-Infinity"])
def test_headers_hold_no_nan(word):
    raw = b'{"run":"r","round":1,"client":"c","base":"","examples":1,"loss_sum":%s,"correct":0}' % word.encode()
    with pytest.raises(MalformedMessage):
        decode(pack("evaluation", raw, {}))


def test_a_metric_that_is_not_finite_stays_behind():
    decoded = decode(encode(Update("r", 1, "c", "", (), {}, 1, {"loss": float("nan"), "steps": 2.0})))
    assert decoded.metrics == {"steps": 2.0}


def test_messages_without_tensors_must_not_smuggle_any():
    raw = pack("refusal", b'{"run":"r","round":1,"client":"c","reason":"x","message":"y"}', {"w": torch.zeros(3)})
    with pytest.raises(MalformedMessage, match="holds tensors"):
        decode(raw)


def test_the_overhead_is_what_the_documentation_says():
    header = b'{"run":"r","round":1,"client":"c","reason":"x","message":"y"}'
    assert len(pack("refusal", header, {})) == len(header) + OVERHEAD_BYTES


@given(st.tuples(finite, finite), st.tuples(finite, finite))
def test_what_was_measured_does_not_change_the_length(one, other):
    """Bytes sent can be compared between runs, and tell nobody a loss or a time."""

    def sizes(loss, seconds):
        update = Update("r", 1, "c", "ab", (), {"w": torch.ones(2)}, 3, {"loss": loss, "seconds": seconds})
        return len(encode(update)), len(encode(Evaluation("r", 1, "c", "ab", 3, loss, abs(seconds))))

    assert sizes(*one) == sizes(*other)


@given(offers)
def test_what_a_ledger_costs_in_a_task_is_its_head_and_32_bytes_an_entry(offer):
    bare = encode(a_task())
    with_head = encode(a_task(Offer(head=offer.head, since=offer.since)))
    assert len(with_head) - len(bare) <= 400
    assert encode(a_task()) == bare, "a task without a ledger is what it was before there were any"
    links = len(encode(a_task(offer))) - len(with_head)
    assert links <= 32 * len(offer.links) + 96


def a_task(ledger=None):
    return Task("train", "r", 1, {}, "", "", "", {}, ledger=ledger)


@pytest.mark.parametrize(
    "links",
    [
        torch.zeros(2, 31, dtype=torch.uint8),
        torch.zeros(2, 32),
        torch.zeros(64, dtype=torch.uint8),
        torch.zeros(0, 32, dtype=torch.uint8),
    ],
)
def test_links_of_another_shape_or_type_are_refused(links):
    header = unpack(encode(a_task(an_offer()))).header
    with pytest.raises(MalformedMessage, match="links of a ledger"):
        decode(pack("task", header, {"ledger/links": links}))


def test_links_without_a_head_are_refused():
    header = unpack(encode(a_task())).header
    with pytest.raises(MalformedMessage, match="no part of a task"):
        decode(pack("task", header, {"ledger/links": torch.zeros(1, 32, dtype=torch.uint8)}))


@pytest.mark.parametrize(
    ("field", "value"),
    [("public_key", "AB" * 32), ("hash", "ab"), ("signature", "ab" * 65), ("seq", -1), ("seq", True), ("more", 1)],
)
def test_a_head_is_exactly_what_it_must_be(field, value):
    header = json.loads(unpack(encode(a_task(an_offer()))).header)
    header["ledger"]["head"][field] = value
    with pytest.raises(MalformedMessage, match="ledger"):
        decode(pack("task", json.dumps(header).encode(), {}))


def test_a_ledger_of_another_format_is_refused():
    header = json.loads(unpack(encode(a_task(an_offer()))).header)
    header["ledger"]["format"] = 2
    with pytest.raises(MalformedMessage, match="format"):
        decode(pack("task", json.dumps(header).encode(), {}))


def an_offer():
    return Offer(head=Head(public_key="ab" * 32, seq=1, hash="cd" * 32, signature="ef" * 64), since=1)


@given(state=states)
def test_the_body_is_the_file_that_safetensors_writes(state):
    whole = pack("update", b"", state)
    assert whole[18:-16] == (save_tensors(state) if state else b"")
