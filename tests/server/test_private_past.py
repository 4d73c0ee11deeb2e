"""The past of turns: read from the ledger and its draws, aborted rounds included, or refused."""

import pytest

from fedtune.audit.ledger import AbortBody, Drawn, LedgerWriter, OpenBody, ReserveBody
from fedtune.audit.ledger.draws import commit
from fedtune.audit.ledger.entry import leaves_of
from fedtune.audit.ledger.merkle import root
from fedtune.audit.ledger.pseudonym import RunSecret
from fedtune.errors import LedgerBroken
from server.private_past import read_past


@pytest.fixture
def writer(tmp_path):
    ledger = LedgerWriter.of(tmp_path)
    ledger.append(
        OpenBody(
            run="run",
            created="2025-01-01",
            recipe={},
            recipe_fingerprint="ab",
            plan={},
            versions={},
            base_model_fingerprint="cd",
            public_key=ledger.public_key,
        )
    )
    return ledger


def reserve(writer, folder, names, *, drawn=True):
    """Reserve round 1 for `names`, and abort it."""
    pseudonyms = sorted(RunSecret.of(folder).pseudonym(name) for name in names)
    proof = Drawn(population=4, sampling_rate=1.0, commitments=(commit(folder, 1, pseudonyms),)) if drawn else None
    entry = writer.append(ReserveBody(round=1, what="train", events=(), participants=(), drawn=proof))
    leaves = root(leaves_of(entry, {})).hex()
    writer.append(AbortBody(round=1, what="train", reason="interrupted", root=leaves))


def test_a_run_that_begins_has_no_past(writer, tmp_path):
    assert list(read_past(tmp_path).drawn) == []


def test_every_attempt_at_a_round_is_a_row_by_the_names_that_clients_are_known_by(writer, tmp_path):
    rows = [["a", "b"], [], ["c"], ["a"]]
    for row in rows:
        reserve(writer, tmp_path, row)
    past = read_past(tmp_path)
    assert [set(row) for row in past.drawn] == [{past.known_as(name) for name in row} for row in rows]


def test_a_round_without_its_draw_leaves_nobody_to_say_whose_turn_it_is(writer, tmp_path):
    reserve(writer, tmp_path, ["a"], drawn=False)
    with pytest.raises(LedgerBroken, match="without its draw"):
        read_past(tmp_path)


def test_a_draw_that_was_taken_away_is_missed(writer, tmp_path):
    reserve(writer, tmp_path, ["a"])
    (tmp_path / "ledger.draws").unlink()
    with pytest.raises(LedgerBroken):
        read_past(tmp_path)
