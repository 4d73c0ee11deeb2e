"""The order of entries: whatever a writer is asked to append, it takes exactly what an independent model allows."""

import tempfile
from dataclasses import dataclass
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from ledger_examples import a_plan, abort, commit, fill, opening, private_recipe, reserve

from fedtune.audit.ledger import (
    AbortBody,
    CloseBody,
    CommitBody,
    LedgerWriter,
    ReserveBody,
    check_proof,
    prove,
    read_ledger,
)
from fedtune.audit.ledger.canonical import encode
from fedtune.audit.ledger.entry import leaves_of
from fedtune.audit.ledger.merkle import root
from fedtune.errors import LedgerBroken

RECIPE = private_recipe()
PLAN = a_plan(RECIPE)


@dataclass
class Model:
    """The rules once more, over (kind, what, round) alone."""

    opened: bool = False
    pending: tuple[str, int] | None = None
    reached: int = 0
    has_run: bool = False

    def takes(self, kind: str, what: str, round_: int) -> bool:
        if not self.opened:
            return kind == "open"
        if kind == "open":
            return False
        if kind == "reserve":
            fits = {
                "start": round_ == 0,
                "run": round_ == 0 and not self.has_run,
                "train": 1 <= round_ <= self.reached + 1,
                "evaluate": 0 <= round_ <= self.reached,
            }
            return self.pending is None and fits[what]
        if kind == "close":
            return self.pending is None and round_ <= self.reached
        return self.pending == (what, round_)

    def take(self, kind: str, what: str, round_: int) -> None:
        self.opened = True
        if kind == "reserve":
            self.pending = (what, round_)
        elif kind in ("commit", "abort"):
            self.pending = None
            self.reached = max(self.reached, round_) if what == "train" else self.reached
            self.has_run = self.has_run or (kind, what) == ("commit", "run")


def body(writer: LedgerWriter, kind: str, what: str, round_: int):
    """A body that is right in all but, perhaps, its place."""
    pending = writer.story.pending
    leaf = root([pending.hash]).hex() if pending else "00" * 32
    return {
        "open": lambda: opening(writer, RECIPE),
        "reserve": lambda: reserve(round_, PLAN, what=what),
        "commit": lambda: CommitBody(round=round_, what=what, outcomes={}, state_digest="", root=leaf),
        "abort": lambda: AbortBody(round=round_, what=what, reason="x", root=leaf),
        "close": lambda: CloseBody(rounds=round_, adapter_digest=""),
    }[kind]()


steps = st.lists(
    st.tuples(
        st.sampled_from(["open", "reserve", "reserve", "commit", "commit", "abort", "close"]),
        st.sampled_from(["train", "train", "evaluate", "start", "run"]),
        st.integers(0, 3),
        st.booleans(),
    ),
    max_size=25,
)


@given(steps)
@settings(max_examples=50)
def test_a_writer_takes_what_may_come_next_and_nothing_else(asked):
    """And what it has taken reads back, also after every refusal."""
    with tempfile.TemporaryDirectory() as name:
        writer, model, count = LedgerWriter.of(Path(name)), Model(), 0
        for kind, *rest, matching in [("open", "run", 0, False), *asked]:
            ends = matching and kind in ("commit", "abort")
            what, round_ = model.pending if ends and model.pending else rest
            may = model.takes(kind, what, round_)
            try:
                writer.append(body(writer, kind, what, round_))
            except LedgerBroken:
                assert not may, (kind, what, round_)
                continue
            assert may, (kind, what, round_)
            model.take(kind, what, round_)
            count += 1
        found = read_ledger(Path(name))
        assert len(found.entries) == count
        assert (found.pending is None) == (model.pending is None)


@pytest.mark.parametrize("kind", ["reserve", "close"])
def test_nothing_comes_before_open(tmp_path, kind):
    writer = LedgerWriter.of(tmp_path)
    with pytest.raises(LedgerBroken, match="does not begin with `open`"):
        writer.append(body(writer, kind, "start", 0))
    assert not writer.path.exists()


def test_an_open_reservation_is_told_of(tmp_path):
    writer = fill(tmp_path, rounds=1, close=False)
    writer.append(reserve(2, PLAN))
    found = read_ledger(tmp_path)
    assert found.pending is not None
    assert found.pending.round == 2


def test_an_outcome_of_somebody_who_was_not_charged_is_refused(tmp_path):
    writer = fill(tmp_path, rounds=0, close=False)
    writer.append(reserve(1, PLAN))
    honest = commit(writer)
    with pytest.raises(LedgerBroken, match="not charged"):
        writer.append(honest.model_copy(update={"outcomes": {**honest.outcomes, "0" * 32: "ok"}}))
    writer.append(honest)


def test_a_wrong_merkle_root_is_refused(tmp_path):
    writer = fill(tmp_path, rounds=0, close=False)
    writer.append(reserve(1, PLAN))
    honest = commit(writer)
    for wrong in (honest.model_copy(update={"root": "00" * 32}), abort(writer).model_copy(update={"root": "11" * 32})):
        with pytest.raises(LedgerBroken, match="Merkle root"):
            writer.append(wrong)


def test_participants_are_sorted_and_named_once():
    good = reserve(1, PLAN)
    for wrong in (good.participants[::-1], good.participants[:1] * 2):
        with pytest.raises(ValueError, match="not sorted, or one is named twice"):
            ReserveBody.model_validate(good.model_dump() | {"participants": wrong})


def test_a_participant_can_be_shown_its_own_outcome(tmp_path):
    """The Merkle root of a round proves one outcome, and shows nothing of the others but hashes."""
    fill(tmp_path, rounds=1, close=False)
    ledger = read_ledger(tmp_path)
    reservation, committed = ledger.entries[1], ledger.entries[2].body
    leaves = leaves_of(reservation, committed.outcomes)
    mine = sorted(committed.outcomes)[1]
    path = prove(leaves, 2)
    assert check_proof(encode([mine, "ok"]), 2, 3, path, bytes.fromhex(committed.root))
    assert not check_proof(encode([mine, "late"]), 2, 3, path, bytes.fromhex(committed.root))
