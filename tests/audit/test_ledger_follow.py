"""A client that keeps the last head sees every rollback, fork and gap, and lets every honest ledger go on."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from ledger_examples import a_plan, commit, fill, private_recipe, reserve

from fedtune.audit.ledger import Head, LedgerWriter, Offer, follow, read_ledger
from fedtune.errors import LedgerBroken


@pytest.fixture(scope="module")
def writer(tmp_path_factory) -> LedgerWriter:
    return fill(tmp_path_factory.mktemp("honest"), rounds=5)


@pytest.fixture(scope="module")
def fork(tmp_path_factory, writer) -> LedgerWriter:
    """The same key, another history from entry 3 on: what a dishonest coordinator would show to somebody else."""
    folder = tmp_path_factory.mktemp("forked")
    for name in ("ledger.key", "ledger.secret"):
        (folder / name).write_bytes((writer.path.parent / name).read_bytes())
    lines = writer.path.read_bytes().splitlines(keepends=True)
    (folder / "ledger.jsonl").write_bytes(b"".join(lines[:3]))
    other = LedgerWriter.of(folder)
    for round_ in (2, 3, 4, 5):
        other.append(reserve(round_, a_plan(private_recipe()), names=("a",)))
        other.append(commit(other))
    return other


def head_at(writer: LedgerWriter, seq: int) -> Head:
    return writer.entries[seq].head(writer.public_key)


def offer_at(writer: LedgerWriter, seq: int, since: int) -> Offer:
    """What the coordinator would have sent when entry `seq` was its last."""
    links = tuple(entry.content for entry in writer.entries[since + 1 : seq + 1])
    return Offer(head=head_at(writer, seq), since=since, links=links)


def test_the_offer_of_a_writer_is_its_head_and_what_leads_to_it(writer):
    last = len(writer.entries) - 1
    assert writer.offer(-1) == offer_at(writer, last, -1)
    assert writer.offer(3) == offer_at(writer, last, 3)
    assert writer.offer(last + 7) == offer_at(writer, last, last)
    assert writer.offer(-1).head == read_ledger(writer.path).head


@given(st.data())
@settings(max_examples=200)
def test_an_honest_ledger_can_always_be_followed(writer, data):
    """From nothing, and from any head to any later one, with links from where the client is or from further back."""
    last = len(writer.entries) - 1
    stored_at = data.draw(st.integers(-1, last))
    seq = data.draw(st.integers(max(stored_at, 0), last))
    since = data.draw(st.integers(-1, max(stored_at, -1)))
    stored = head_at(writer, stored_at) if stored_at >= 0 else None
    assert follow(stored, offer_at(writer, seq, since)) == head_at(writer, seq)


@given(st.data())
@settings(max_examples=100)
def test_a_rollback_is_refused(writer, data):
    stored_at = data.draw(st.integers(1, len(writer.entries) - 1))
    seq = data.draw(st.integers(0, stored_at - 1))
    with pytest.raises(LedgerBroken, match="rolled back"):
        follow(head_at(writer, stored_at), offer_at(writer, seq, data.draw(st.integers(-1, seq))))


@given(st.data())
@settings(max_examples=100)
def test_a_fork_is_refused_however_it_is_shown(writer, fork, data):
    """Two histories part at entry 3: who holds the one never follows to the other."""
    stored_at = data.draw(st.integers(3, len(writer.entries) - 1))
    seq = data.draw(st.integers(3, len(fork.entries) - 1))
    since = data.draw(st.integers(-1, min(seq, stored_at)))
    with pytest.raises(LedgerBroken, match=r"forked|rolled back"):
        follow(head_at(writer, stored_at), offer_at(fork, seq, since))
    both = head_at(writer, 2)
    assert follow(both, offer_at(fork, seq, 2)) == head_at(fork, seq), "before they part they are one"


@given(st.data())
@settings(max_examples=100)
def test_links_that_are_changed_moved_or_missing_are_refused(writer, data):
    last = len(writer.entries) - 1
    stored_at = data.draw(st.integers(-1, last - 2))
    offer = offer_at(writer, last, stored_at)
    links = list(offer.links)
    place = data.draw(st.integers(0, len(links) - 2))
    how = data.draw(st.sampled_from(["change", "swap", "drop", "short"]))
    if how == "change":
        links[place] = bytes([links[place][0] ^ 1]) + links[place][1:]
    elif how == "swap":
        links[place], links[place + 1] = links[place + 1], links[place]
    elif how == "drop":
        del links[place]
    else:
        links[place] = links[place][:-1]
    stored = head_at(writer, stored_at) if stored_at >= 0 else None
    with pytest.raises(LedgerBroken):
        follow(stored, offer.model_copy(update={"links": tuple(links)}))


def test_a_gap_between_the_known_head_and_the_links_is_refused(writer):
    with pytest.raises(LedgerBroken, match="does not show how its ledger goes on after entry 2"):
        follow(head_at(writer, 2), offer_at(writer, 6, 4))


def test_another_key_is_refused(writer, tmp_path):
    stranger = fill(tmp_path, rounds=5)
    with pytest.raises(LedgerBroken, match="another key"):
        follow(head_at(writer, 2), offer_at(stranger, 8, -1))


@pytest.mark.parametrize("field", ["seq", "hash", "signature", "public_key"])
def test_a_head_whose_signature_does_not_fit_is_refused(writer, field):
    """The signature is over number and hash: neither can be said otherwise."""
    offer = offer_at(writer, 4, 4)
    head = offer.head
    other = head_at(writer, 5)
    changed = {"public_key": "00" * 32, "seq": 5} | {"hash": other.hash, "signature": other.signature}
    forged = head.model_copy(update={field: changed[field]})
    with pytest.raises(LedgerBroken, match="not signed"):
        follow(None, offer.model_copy(update={"head": forged, "since": forged.seq}))


def test_the_same_head_twice_is_no_rollback(writer):
    """A task that is sent again carries the same head."""
    assert follow(head_at(writer, 4), offer_at(writer, 4, 4)) == head_at(writer, 4)
    assert follow(head_at(writer, 4), offer_at(writer, 4, -1)) == head_at(writer, 4)
