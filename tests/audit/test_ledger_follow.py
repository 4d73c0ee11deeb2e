"""A client that keeps the last head sees every rollback, fork and gap, and lets every honest ledger go on."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from ledger_examples import a_plan, commit, fill, private_recipe, reserve

from fedtune.audit.ledger import Head, Ledger, LedgerWriter, Offer, follow, read_ledger
from fedtune.errors import LedgerBroken


@pytest.fixture(scope="module")
def honest(tmp_path_factory) -> Ledger:
    return read_ledger(fill(tmp_path_factory.mktemp("honest"), rounds=5).path)


@pytest.fixture(scope="module")
def fork(tmp_path_factory, honest) -> Ledger:
    """The same key, another history from entry 3 on: what a dishonest coordinator would show to somebody else."""
    folder = tmp_path_factory.mktemp("forked")
    for name in ("ledger.key", "ledger.secret"):
        (folder / name).write_bytes((honest.path.parent / name).read_bytes())
    lines = honest.path.read_bytes().splitlines(keepends=True)
    (folder / "ledger.jsonl").write_bytes(b"".join(lines[:3]))
    other = LedgerWriter.of(folder)
    for round_ in (2, 3, 4, 5):
        other.append(reserve(round_, a_plan(private_recipe()), names=("a",)))
        other.append(commit(other))
    return read_ledger(other.path)


def head_at(ledger: Ledger, seq: int) -> Head:
    return ledger.entries[seq].head(ledger.public_key)


def offer_at(ledger: Ledger, seq: int, since: int) -> Offer:
    """What the coordinator would have sent when entry `seq` was its last."""
    links = tuple(entry.content for entry in ledger.entries[since + 1 : seq + 1])
    return Offer(head=head_at(ledger, seq), since=since, links=links)


def test_the_offer_of_a_writer_is_its_head_and_what_leads_to_it(honest):
    last, made = len(honest.entries) - 1, LedgerWriter.of(honest.path.parent)
    assert made.offer(-1) == offer_at(honest, last, -1)
    assert made.offer(3) == offer_at(honest, last, 3)
    assert made.offer(last + 7) == offer_at(honest, last, last)
    assert made.offer(-1).head == honest.head


@given(st.data())
@settings(max_examples=200)
def test_an_honest_ledger_can_always_be_followed(honest, data):
    """From nothing, and from any head to any later one, with links from where the client is or from further back."""
    last = len(honest.entries) - 1
    stored_at = data.draw(st.integers(-1, last))
    seq = data.draw(st.integers(max(stored_at, 0), last))
    since = data.draw(st.integers(-1, max(stored_at, -1)))
    stored = head_at(honest, stored_at) if stored_at >= 0 else None
    assert follow(stored, offer_at(honest, seq, since)) == head_at(honest, seq)


@given(st.data())
@settings(max_examples=100)
def test_a_rollback_is_refused(honest, data):
    stored_at = data.draw(st.integers(1, len(honest.entries) - 1))
    seq = data.draw(st.integers(0, stored_at - 1))
    with pytest.raises(LedgerBroken, match="rolled back"):
        follow(head_at(honest, stored_at), offer_at(honest, seq, data.draw(st.integers(-1, seq))))


@given(st.data())
@settings(max_examples=100)
def test_a_fork_is_refused_however_it_is_shown(honest, fork, data):
    """Two histories part at entry 3: who holds the one never follows to the other."""
    stored_at = data.draw(st.integers(3, len(honest.entries) - 1))
    seq = data.draw(st.integers(3, len(fork.entries) - 1))
    since = data.draw(st.integers(-1, min(seq, stored_at)))
    with pytest.raises(LedgerBroken, match=r"forked|rolled back"):
        follow(head_at(honest, stored_at), offer_at(fork, seq, since))
    both = head_at(honest, 2)
    assert follow(both, offer_at(fork, seq, 2)) == head_at(fork, seq), "before they part they are one"


@given(st.data())
@settings(max_examples=100)
def test_links_that_are_changed_moved_or_missing_are_refused(honest, data):
    last = len(honest.entries) - 1
    stored_at = data.draw(st.integers(-1, last - 2))
    offer = offer_at(honest, last, stored_at)
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
    stored = head_at(honest, stored_at) if stored_at >= 0 else None
    with pytest.raises(LedgerBroken):
        follow(stored, offer.model_copy(update={"links": tuple(links)}))


def test_a_gap_between_the_known_head_and_the_links_is_refused(honest):
    with pytest.raises(LedgerBroken, match="does not show how its ledger goes on after entry 2"):
        follow(head_at(honest, 2), offer_at(honest, 6, 4))


def test_another_key_is_refused(honest, tmp_path):
    stranger = read_ledger(fill(tmp_path, rounds=5).path)
    with pytest.raises(LedgerBroken, match="another key"):
        follow(head_at(honest, 2), offer_at(stranger, 8, -1))


@pytest.mark.parametrize("field", ["seq", "hash", "signature", "public_key"])
def test_a_head_whose_signature_does_not_fit_is_refused(honest, field):
    """The signature is over number and hash: neither can be said otherwise."""
    offer = offer_at(honest, 4, 4)
    head = offer.head
    other = head_at(honest, 5)
    changed = {"public_key": "00" * 32, "seq": 5} | {"hash": other.hash, "signature": other.signature}
    forged = head.model_copy(update={field: changed[field]})
    with pytest.raises(LedgerBroken, match="not signed"):
        follow(None, offer.model_copy(update={"head": forged, "since": forged.seq}))


def test_the_same_head_twice_is_no_rollback(honest):
    """A task that is sent again carries the same head."""
    assert follow(head_at(honest, 4), offer_at(honest, 4, 4)) == head_at(honest, 4)
    assert follow(head_at(honest, 4), offer_at(honest, 4, -1)) == head_at(honest, 4)
