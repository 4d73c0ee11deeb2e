"""rounds.jsonl: appended durably, never loses a whole line."""

import json
import math
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from runs_examples import make_record, memory_folder

from fedtune.errors import RunError
from fedtune.runs.journal import RoundJournal
from fedtune.runs.record import RoundRecord, ScoreRecord

WHOLE = b"".join(json.dumps(make_record(i).as_json()).encode() + b"\n" for i in range(3))


def test_what_is_appended_is_read_back(tmp_path: Path) -> None:
    journal = RoundJournal(tmp_path / "rounds.jsonl")
    records = [make_record(i, seconds=i / 3) for i in range(4)]
    for record in records:
        journal.append(record)
    assert RoundJournal(journal.path).read() == tuple(records)
    assert journal.path.read_bytes().count(b"\n") == 4


def test_a_diverged_loss_is_strict_json_and_reads_back_as_nan(tmp_path: Path) -> None:
    journal = RoundJournal(tmp_path / "rounds.jsonl")
    journal.append(make_record(1, central=ScoreRecord(examples=1, loss=math.nan, accuracy=0.5), train_loss=math.inf))

    def refuse(constant: str) -> None:
        raise AssertionError(constant)

    json.loads(journal.path.read_text(), parse_constant=refuse)
    (record,) = journal.read()
    assert record.central is not None
    assert math.isnan(record.central.loss)
    assert record.train_loss == math.inf


@settings(deadline=None, max_examples=60)
@given(cut=st.integers(0, len(WHOLE)))
def test_cut_at_any_byte_whole_lines_stay_and_appending_goes_on(cut: int) -> None:
    with memory_folder() as folder:
        path = Path(folder) / "rounds.jsonl"
        path.write_bytes(WHOLE[:cut])
        whole_before = sum(WHOLE[:cut].count(end) for end in (b"}\n",))
        found = RoundJournal(path).read()
        # Exactly before its newline a record is whole too.
        assert whole_before <= len(found) <= whole_before + 1
        assert found == tuple(make_record(i) for i in range(len(found)))
        journal = RoundJournal(path)
        cut_bytes = journal.mend()
        assert cut_bytes == cut - len(b"".join(WHOLE.splitlines(keepends=True)[: len(found)])[:cut])
        journal.append(make_record(9))
        assert [r.round for r in RoundJournal(path).read()] == [*range(len(found)), 9]


def test_a_torn_line_is_reported(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = tmp_path / "rounds.jsonl"
    path.write_bytes(WHOLE[:-30])
    assert RoundJournal(path).mend() > 0
    assert "torn last line" in caplog.text


@pytest.mark.parametrize("tail", [b"\0" * 40, b"\xff\xfe\n", b'{"round": 3\n', b"[]\n", b"\n"])
def test_rubbish_at_the_end_is_cut(tmp_path: Path, tail: bytes) -> None:
    path = tmp_path / "rounds.jsonl"
    path.write_bytes(WHOLE + tail)
    journal = RoundJournal(path)
    assert len(journal.read()) == 3
    assert journal.mend() == len(tail)
    assert path.read_bytes() == WHOLE


def test_damage_in_the_middle_names_the_line_and_changes_nothing(tmp_path: Path) -> None:
    path = tmp_path / "rounds.jsonl"
    lines = WHOLE.splitlines(keepends=True)
    damaged = lines[0] + lines[1][:20] + b"\n" + lines[2]
    path.write_bytes(damaged)
    with pytest.raises(RunError, match=r"line 2 of .*damaged"):
        RoundJournal(path).mend()
    assert path.read_bytes() == damaged


def test_a_line_of_another_version_is_refused_not_cut(tmp_path: Path) -> None:
    path = tmp_path / "rounds.jsonl"
    newer = json.dumps(make_record(3).as_json() | {"epsilon": 1.0}).encode() + b"\n"
    path.write_bytes(WHOLE + newer)
    with pytest.raises(RunError, match=r"line 4 .*epsilon"):
        RoundJournal(path).mend()
    assert path.read_bytes() == WHOLE + newer


@settings(deadline=None, max_examples=60)
@given(rounds=st.lists(st.integers(0, 30), unique=True).map(sorted), after=st.integers(-1, 31))
def test_truncating_keeps_exactly_the_rounds_up_to_one(rounds: list[int], after: int) -> None:
    with memory_folder() as folder:
        journal = RoundJournal(Path(folder) / "rounds.jsonl")
        for round_ in rounds:
            journal.append(make_record(round_))
        kept = [r for r in rounds if r <= after]
        assert journal.truncate_after(after) == len(rounds) - len(kept)
        assert [r.round for r in journal.read()] == kept
        assert journal.last_round() == (kept[-1] if kept else -1)


def test_a_round_is_never_recorded_twice(tmp_path: Path) -> None:
    journal = RoundJournal(tmp_path / "rounds.jsonl")
    journal.append(make_record(2))
    for round_ in (2, 1):
        with pytest.raises(RunError, match="already holds round 2"):
            journal.append(make_record(round_))
    assert journal.read() == (make_record(2),)


def test_bytes_are_summed_over_clients() -> None:
    record: RoundRecord = make_record(1)
    assert (record.bytes_up(), record.bytes_down()) == (100, 300)
