"""Every byte of a ledger counts: what is flipped, dropped, moved, repeated or cut is found, and said where."""

import hashlib
import json
import random
import struct

import pytest
from cryptography.hazmat.primitives import serialization
from hypothesis import given, settings
from hypothesis import strategies as st
from ledger_examples import a_plan, fill, private_recipe, reserve

from fedtune.audit.ledger import read_ledger, spent, verify
from fedtune.audit.ledger.canonical import decode, encode
from fedtune.audit.ledger.read import parse_ledger
from fedtune.errors import LedgerBroken


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """A ledger of eight entries: its bytes and its folder."""
    folder = tmp_path_factory.mktemp("ledger")
    fill(folder)
    return (folder / "ledger.jsonl").read_bytes(), folder


def refused(content: bytes, folder) -> str:
    """What a reader says of these bytes; the test fails where it says nothing."""
    with pytest.raises(LedgerBroken) as caught:
        parse_ledger(content, folder / "changed.jsonl")
    return str(caught.value)


def test_the_ledger_itself_is_read_and_verified(written):
    _, folder = written
    found = read_ledger(folder)
    assert [entry.kind for entry in found.entries] == [
        "open", "reserve", "commit", "reserve", "abort", "reserve", "commit", "close",
    ]  # fmt: skip
    assert found.closed
    assert found.pending is None
    verdict = verify(found, public_key=found.public_key, heads=[found.head.hash])
    assert verdict.open_ends == ()


def test_every_single_byte_changed_in_one_way_is_found(tmp_path):
    """All of them, one after the other, each by a random change: no byte is beside the point."""
    fill(tmp_path, rounds=1)
    content, folder = (tmp_path / "ledger.jsonl").read_bytes(), tmp_path
    dice = random.Random(5)
    for place in range(len(content)):
        changed = bytearray(content)
        changed[place] ^= dice.randrange(1, 256)
        refused(bytes(changed), folder)


@given(st.data())
@settings(max_examples=200)
def test_every_byte_changed_to_anything_is_found(written, data):
    content, folder = written
    place = data.draw(st.integers(0, len(content) - 1))
    value = data.draw(st.integers(0, 255).filter(lambda v: v != content[place]))
    refused(content[:place] + bytes([value]) + content[place + 1 :], folder)


@given(st.data())
@settings(max_examples=100)
def test_bytes_that_are_dropped_or_put_in_are_found(written, data):
    content, folder = written
    start = data.draw(st.integers(0, len(content) - 1))
    stop = data.draw(st.integers(start, min(len(content), start + 40)))
    new = data.draw(st.binary(max_size=5))
    changed = content[:start] + new + content[stop:]
    lines = content.splitlines(keepends=True)
    at_a_boundary = [b"".join(lines[:n]) for n in range(1, len(lines) + 1)]
    if changed not in at_a_boundary:
        refused(changed, folder)


def test_every_cut_is_found_but_those_between_two_entries(written):
    content, folder = written
    boundaries = {n for n in range(1, len(content) + 1) if content[n - 1 : n] == b"\n"}
    for stop in {*range(0, len(content), 7), *(b + 1 for b in boundaries), *(b - 1 for b in boundaries)}:
        if stop not in boundaries and stop < len(content):
            assert "cut short" in refused(content[:stop], folder) or stop == 0


def test_a_cut_between_two_entries_is_found_by_a_head_that_somebody_keeps(written):
    """And by nothing else: the verdict of the shortened file says so."""
    content, folder = written
    whole = read_ledger(folder)
    lines = content.splitlines(keepends=True)
    for count in range(1, len(lines)):
        (folder / "cut.jsonl").write_bytes(b"".join(lines[:count]))
        cut = read_ledger(folder / "cut.jsonl")
        assert not cut.closed
        assert any("entries are missing" in sentence for sentence in verify(cut).open_ends)
        for kept in whole.entries[count:]:
            with pytest.raises(LedgerBroken, match="cut off at its end"):
                verify(cut, heads=[kept.hash.hex()])


@pytest.mark.parametrize("number", range(8))
def test_a_dropped_or_repeated_entry_is_found_with_its_number(written, number):
    content, folder = written
    lines = content.splitlines(keepends=True)
    if number < len(lines) - 1:
        said = refused(b"".join(lines[:number] + lines[number + 1 :]), folder)
        assert f"entry {number} of" in said
    said = refused(b"".join([*lines[: number + 1], *lines[number:]]), folder)
    assert f"entry {number + 1} of" in said
    assert "repeated" in said


@given(st.permutations(range(8)))
@settings(max_examples=60)
def test_entries_in_another_order_are_found(written, order):
    content, folder = written
    lines = content.splitlines(keepends=True)
    if list(order) != sorted(order):
        first = next(n for n, place in enumerate(order) if n != place)
        assert f"entry {first} of" in refused(b"".join(lines[n] for n in order), folder)


def test_an_entry_of_another_ledger_in_its_place_is_found(written, tmp_path):
    content, folder = written
    fill(tmp_path)
    lines = content.splitlines(keepends=True)
    others = (tmp_path / "ledger.jsonl").read_bytes().splitlines(keepends=True)
    for number in range(1, len(lines)):
        assert f"entry {number} of" in refused(
            b"".join([*lines[:number], others[number], *lines[number + 1 :]]), folder
        )


def test_a_ledger_signed_anew_by_somebody_else_is_told_apart_by_its_key(written, tmp_path):
    _, folder = written
    fill(tmp_path)
    forged, own = read_ledger(tmp_path), read_ledger(folder)
    with pytest.raises(LedgerBroken, match="another key"):
        verify(forged, public_key=own.public_key)
    assert any("whose key" in sentence for sentence in verify(forged).open_ends)


def test_a_plan_that_is_not_the_recipe_s_is_found(tmp_path):
    """Also one whose ledger is whole: a coordinator that writes down less noise than its recipe has."""
    honest, other = private_recipe(), private_recipe(noise_multiplier=3.0)
    writer = fill(tmp_path, rounds=0, close=False, recipe=honest)
    assert verify(read_ledger(tmp_path)).plan.noise_multiplier == 2.0
    body = read_ledger(writer.path).entries[0].body.model_copy(update={"recipe": other.model_dump(mode="json")})
    forged = tmp_path / "forged"
    forged.mkdir()
    again = type(writer).of(forged)
    again.append(body.model_copy(update={"public_key": again.public_key}))
    with pytest.raises(LedgerBroken, match="not what its recipe comes to"):
        verify(read_ledger(forged))


def test_a_reservation_of_less_than_the_plan_is_found(tmp_path):
    writer = fill(tmp_path, rounds=1, close=False)
    cheap = reserve(2, a_plan(private_recipe(noise_multiplier=9.0)))
    writer.append(cheap)
    with pytest.raises(LedgerBroken, match=r"entry 3 .*the plan says"):
        verify(read_ledger(tmp_path))


def test_what_is_spent_is_what_was_reserved_whatever_came_of_it(written):
    _, folder = written
    sums = spent(read_ledger(folder))
    assert sums.everyone == ()
    assert len(sums.names) == 2
    for name in sums.names:
        (event,) = sums.of(name)
        assert (event.noise_multiplier, event.sampling_rate, event.count) == (2.0, 0.25, 3)
    assert sums.histories() == ((), sums.of(sums.names[0]))


values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=8,
)


@given(values)
def test_canonical_json_comes_back_and_has_one_form(value):
    raw = encode(value)
    assert encode(decode(raw)) == raw
    assert json.loads(raw) == value
    assert raw.isascii()
    assert b"\n" not in raw


@pytest.mark.parametrize(
    "raw",
    [
        b'{"a":1,"a":1}', b'{"b":1,"a":2}', b'{"a": 1}', b"[1.0e0]", b"NaN", b"-Infinity", b"1e999", b'"\xc3\xa9"',
        b'"\\u00E9"', b"01", b"", b"\xff\xfe1\x00", b"[" * 100_000, b"1" * 5000, b'{"a":1}\r',
    ],
)  # fmt: skip
def test_anything_but_the_canonical_form_is_refused(raw):
    with pytest.raises(ValueError):
        decode(raw)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), {"a": b"x"}, object()])
def test_what_is_no_json_is_not_encoded(value):
    with pytest.raises(ValueError):
        encode(value)


def test_a_reader_of_its_own_that_follows_the_documentation_agrees(written):
    """Every hash and signature, computed from docs/ledger.md with nothing but hashlib, json and an Ed25519 key."""
    content, folder = written
    key = serialization.load_pem_public_key((folder / "ledger.pub").read_bytes())
    prev = bytes(32)
    for seq, line in enumerate(content.decode("ascii").splitlines()):
        entry = json.loads(line)
        said = {name: entry[name] for name in ("kind", "seq", "time")}
        said["body"] = hashlib.sha256(compact(entry["body"])).hexdigest()
        inner = hashlib.sha256(b"fedtune ledger content 1\n" + compact(said)).digest()
        hash_ = hashlib.sha256(b"fedtune ledger entry 1\n" + prev + inner).digest()
        assert (entry["seq"], entry["prev"], entry["hash"]) == (seq, prev.hex(), hash_.hex())
        key.verify(bytes.fromhex(entry["signature"]), b"fedtune ledger head 1\n" + struct.pack(">Q", seq) + hash_)
        prev = hash_


def compact(value) -> bytes:
    return json.dumps(value, sort_keys=True, separators=(",", ":")).encode()
