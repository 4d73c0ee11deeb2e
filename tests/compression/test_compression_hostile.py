"""No stream that was cut, changed or made up gives symbols: each is refused, before it can take memory or time."""

import tracemalloc

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from fedtune.compression import make_pipeline
from fedtune.compression.stream import Reader, varint
from fedtune.errors import MalformedMessage
from fedtune.recipe.compression import CompressionSection
from tests.compression.coded import CODERS, coder, decoded, form_of, stream_of, ternary

COUNT = 300
QUANTISED = np.clip(np.random.default_rng(1).normal(scale=2, size=COUNT).round(), -7, 7).astype(np.int8)
SYMBOLS = {
    "entropy, coded": ("entropy", ternary(3 * COUNT, 0.05, positive=0.1)),
    "entropy, signs packed": ("entropy", ternary(COUNT, 0.1)),
    "entropy, all packed": ("entropy", ternary(COUNT, 0.5)),
    "entropy, one sign": ("entropy", ternary(COUNT, 0.1, positive=1.0)),
    "entropy, counted": ("entropy", QUANTISED),
    "entropy, one symbol": ("entropy", np.full(COUNT, 9, np.int8)),
    "entropy, plain": ("entropy", np.random.default_rng(2).permutation(np.arange(-128, 128)).astype(np.int8)),
    "rice": ("rice", ternary(COUNT, 0.1)),
    "rice, dense": ("rice", ternary(COUNT, 0.8)),
    "rice, one sign": ("rice", ternary(COUNT, 0.1, positive=0.0)),
    "rice, nothing": ("rice", np.zeros(COUNT, np.int8)),
    "bitmask": ("bitmask", ternary(COUNT, 0.1)),
}
FORMATS = {"entropy": 0x11, "rice": 0x21, "bitmask": 0x31}
each = pytest.mark.parametrize(("name", "symbols"), SYMBOLS.values(), ids=SYMBOLS)
HUGE = 10**8


def trust(reader, decoded):
    """Takes any checksum to be right."""


def refused(name, stream, count):
    """Is the stream refused as malformed? Any other error is the test's."""
    try:
        decoded(name, stream, count)
    except MalformedMessage:
        return True
    return False


@each
def test_every_truncation_is_refused(name, symbols):
    stream = stream_of(name, symbols)
    assert all(refused(name, stream[:length], len(symbols)) for length in range(len(stream)))


@each
def test_every_flipped_bit_is_refused(name, symbols):
    stream = stream_of(name, symbols)
    for bit in range(8 * len(stream)):
        changed = stream.copy()
        changed[bit // 8] ^= 1 << bit % 8
        assert refused(name, changed, len(symbols)), f"bit {bit}"


@each
@given(more=st.binary(min_size=1, max_size=9))
def test_what_follows_the_last_symbol_is_refused(name, symbols, more):
    stream = np.concatenate([stream_of(name, symbols), np.frombuffer(more, np.uint8)])
    assert refused(name, stream, len(symbols))


@each
@pytest.mark.parametrize("count", [0, 1, COUNT - 1, COUNT + 1, COUNT + 8, 2**40])
def test_another_number_of_symbols_is_refused(name, symbols, count):
    assert refused(name, stream_of(name, symbols), count)


@each
@given(data=st.data())
def test_bytes_replaced_at_random_are_refused(name, symbols, data):
    stream = stream_of(name, symbols)
    start = data.draw(st.integers(0, len(stream) - 1))
    new = data.draw(st.binary(min_size=1, max_size=min(20, len(stream) - start)))
    changed = stream.copy()
    changed[start : start + len(new)] = np.frombuffer(new, np.uint8)
    assert refused(name, changed, len(symbols)) == (not np.array_equal(changed, stream))


@pytest.mark.parametrize("name", CODERS)
@given(raw=st.binary(max_size=200), count=st.integers(0, 2000))
def test_made_up_bytes_are_refused(name, raw, count):
    assert refused(name, np.frombuffer(raw, np.uint8), count)
    assert refused(name, np.frombuffer(bytes([FORMATS[name]]) + raw, np.uint8), count)


@each
@given(data=st.data())
def test_who_knows_the_checksum_gets_symbols_or_a_refusal(name, symbols, data):
    """An attacker can send the right checksum of anything; nothing but the one refusal may come of it."""
    stream = stream_of(name, symbols)
    for _ in range(data.draw(st.integers(1, 4))):
        start = data.draw(st.integers(9, len(stream) - 1))
        stream[start] = data.draw(st.integers(0, 255))
    if data.draw(st.booleans()):
        stream = stream[: data.draw(st.integers(9, len(stream)))]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Reader, "verify", trust)
        try:
            got = decoded(name, stream, len(symbols))
        except MalformedMessage:
            return
    assert got.shape == symbols.shape
    assert name == "entropy" or set(got.tolist()) <= {-1, 0, 1}


def claims(name, stream):
    """How many symbols a ternary stream says are not zero, and how many -1."""
    fields = stream[9:].tolist()
    numbers = []
    while len(numbers) < 4:
        numbers.append(sum((byte & 0x7F) << 7 * i for i, byte in enumerate(_until_last(fields))))
    return tuple(numbers[2:] if name == "entropy" else numbers[1:3])


def _until_last(fields):
    """The bytes of the next integer, taken off the front."""
    byte = 0x80
    while byte >= 0x80:
        byte = fields.pop(0)
        yield byte


@pytest.mark.parametrize(
    ("name", "symbols"),
    [(name, symbols) for name, symbols in SYMBOLS.values() if name != "bitmask" and set(symbols) == {-1, 0, 1}],
)
def test_symbols_of_any_checksum_are_as_many_as_the_stream_counts(name, symbols, monkeypatch):
    monkeypatch.setattr(Reader, "verify", trust)
    stream = stream_of(name, symbols)
    for bit in range(72, 8 * len(stream)):
        changed = stream.copy()
        changed[bit // 8] ^= 1 << bit % 8
        if not refused(name, changed, len(symbols)):
            got = decoded(name, changed, len(symbols))
            assert (np.count_nonzero(got), np.count_nonzero(got < 0)) == claims(name, changed)


def header(name, *fields):
    """A stream of 100 bytes that begins with these fields: whole numbers as varints, bytes as they are."""
    raw = b"".join(varint(field) if isinstance(field, int) else field for field in fields)
    head = bytes([FORMATS[name]]) + bytes(8) + raw
    return np.frombuffer(head + b"\x5a" * max(0, 100 - len(head)), np.uint8)


HALF = HUGE // 2
BOMBS = {
    "more symbols than the tensor": ("entropy", header("entropy", 2**50, b"\0")),
    "half of all in no bytes, coded": ("entropy", header("entropy", HUGE, b"\0", HALF, HALF // 2)),
    "half of all in no bytes, packed": ("entropy", header("entropy", HUGE, b"\3", HALF, HALF // 2)),
    "all, with coded signs": ("entropy", header("entropy", HUGE, b"\0", HUGE, HALF)),
    "all with one sign and more": ("entropy", header("entropy", HUGE, b"\0", HUGE, HUGE)),
    "more than there are": ("entropy", header("entropy", HUGE, b"\0", HUGE + 1, 0)),
    "more negative than not zero": ("entropy", header("entropy", HUGE, b"\0", 5, 6)),
    "two symbols, half each": ("entropy", header("entropy", HUGE, b"\4\0\1", HALF, HALF)),
    "counts that sum to less": ("entropy", header("entropy", HUGE, b"\4\0\1", HALF, 1)),
    "counts that sum to more": ("entropy", header("entropy", HUGE, b"\4\0\1", HUGE, HUGE)),
    "an alphabet beyond a byte": ("entropy", header("entropy", HUGE, b"\4\x7f\1", HALF, HALF)),
    "as they are": ("entropy", header("entropy", HUGE, b"\5")),
    "a mode that there is not": ("entropy", header("entropy", HUGE, b"\6")),
    "an integer without end": ("entropy", header("entropy", b"\x80" * 90)),
    "an integer of 64 bits": ("entropy", header("entropy", b"\xff" * 9 + b"\1")),
    "gaps of no bytes": ("rice", header("rice", HUGE, HALF, HALF // 2, b"\0")),
    "gaps of no bytes, one sign": ("rice", header("rice", HUGE, HUGE, 0, b"\0")),
    "gaps with low bits of no bytes": ("rice", header("rice", HUGE, HALF // 8, 0, b"\3")),
    "runs beyond the tensor": ("rice", header("rice", HUGE, 1, 0, b"\x18", b"\xff\xff\xff" + b"\0" * 70 + b"\1")),
    "shifts beyond the tensor": ("rice", header("rice", HUGE, 1, 0, b"\xff")),
    "masks of no bytes": ("bitmask", header("bitmask", HUGE)),
}


@pytest.mark.parametrize(("name", "stream"), BOMBS.values(), ids=BOMBS)
def test_a_hundred_bytes_take_no_memory(name, stream):
    stage = coder(name)
    sent, given_ = {"w": torch.from_numpy(stream.copy())}, {"w": form_of(HUGE)}
    tracemalloc.start()
    try:
        with pytest.raises(MalformedMessage, match=r"^'w': "):
            stage.decode(sent, given_, seed=0)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 500_000


def test_an_integer_that_goes_on_is_read_no_further_than_64_bits():
    with pytest.raises(MalformedMessage, match="does not end"):
        decoded("entropy", header("entropy", b"\x80" * 30), HUGE)


@each
def test_another_version_is_refused_whatever_the_checksum(name, symbols, monkeypatch):
    monkeypatch.setattr(Reader, "verify", trust)
    stream = stream_of(name, symbols)
    stream[0] += 1
    assert refused(name, stream, len(symbols))


def test_counts_of_no_symbols_are_refused():
    assert refused("entropy", header("entropy", 0, b"\4\0\1\0\0"), 0)


@pytest.mark.parametrize("name", CODERS)
def test_memory_stays_within_a_few_times_the_symbols(name):
    """Half of the symbols are not zero: their places, as 64-bit integers, are the most that is held at once."""
    count = 1_000_000
    symbols = ternary(count, 0.5)
    stream = stream_of(name, symbols)
    tracemalloc.start()
    try:
        decoded(name, stream, count)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 30 * count


@pytest.mark.parametrize(
    ("symbols", "place"),
    [([0, 0, 1], (10, 0b0010_0001)), ([0, 0, 1], (11, 0b0000_0001)), ([1, 0, 1], (11, 0b1000_0000))],
    ids=["beyond the end, positive", "beyond the end, negative", "both signs"],
)
def test_masks_that_no_symbols_have_are_refused_whatever_the_checksum(symbols, place, monkeypatch):
    monkeypatch.setattr(Reader, "verify", trust)
    stream = stream_of("bitmask", np.array(symbols, np.int8))
    stream[place[0]] = place[1]
    assert refused("bitmask", stream, len(symbols))


@pytest.mark.parametrize("name", CODERS)
def test_the_pipeline_refuses_a_stream_longer_than_any_of_its_symbols(name):
    """Before the coder reads it: the forms say how long a stream can be."""
    pipeline = make_pipeline(CompressionSection(upload=("ternary", name)))
    sent = pipeline.encode({"w": torch.randn(100, generator=torch.Generator().manual_seed(0))}, seed=0)
    most = coder(name).most_bytes(100)
    for length, refusal in ((most, "'ternary.symbols': "), (most + 1, f"not what stage '{name}' makes")):
        sent["ternary.symbols"] = torch.zeros(length, dtype=torch.uint8)
        with pytest.raises(MalformedMessage, match=refusal):
            pipeline.decode(sent, {"w": (100,)}, seed=0)
