"""The book of a data set: whole or refused, for its owner alone, and no byte of it changes unseen."""

import json
import stat
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from client.policy.book import Book
from client.policy.declined import BookBroken, BookBusy
from client.policy.entry import decode, encode, first_hash
from fedtune.privacy.events import Event
from tests.client.budgets import entry_of

COUNT = 3


def written(folder: Path, count: int = COUNT) -> Book:
    book = Book(folder, "rows")
    for round_ in range(1, count + 1):
        with book.open() as pen:
            pen.append(entry_of(round=round_))
    return book


def test_what_was_written_is_read_again_in_order(tmp_path: Path) -> None:
    entries = written(tmp_path).entries()
    assert [entry.round for entry in entries] == [1, 2, 3]
    assert entries[0] == entry_of(round=1)


def test_a_book_that_nobody_began_holds_nothing_and_leaves_no_file(tmp_path: Path) -> None:
    assert Book(tmp_path / "new", "rows").entries() == ()
    assert not (tmp_path / "new").exists()


def test_the_files_are_for_their_owner_alone(tmp_path: Path) -> None:
    written(tmp_path / "budget")
    assert stat.S_IMODE((tmp_path / "budget").stat().st_mode) == 0o700
    assert {path.name: stat.S_IMODE(path.stat().st_mode) for path in (tmp_path / "budget").iterdir()} == {
        "rows.jsonl": 0o600,
        "rows.head": 0o600,
        "rows.lock": 0o600,
    }


def test_lines_are_json_and_hold_no_more_than_mechanisms_and_names(tmp_path: Path) -> None:
    written(tmp_path)
    lines = [json.loads(line) for line in (tmp_path / "rows.jsonl").read_text().splitlines()]
    assert lines[1]["previous"] == lines[0]["hash"]
    assert set(lines[0]) == {
        *("what", "at", "run", "round", "task", "client", "coordinator", "unit", "relation", "trust", "events"),
        *("through", "previous", "hash"),
    }


@given(
    st.builds(
        Event,
        noise_multiplier=st.floats(1e-3, 1e6),
        sampling_rate=st.floats(1e-9, 1.0),
        count=st.integers(1, 10**9),
        purpose=st.sampled_from(["train", "init", "metrics", "clip", "release"]),
    ),
    st.text(max_size=20),
)
def test_an_entry_survives_its_line_exactly(event: Event, run: str) -> None:
    entry = entry_of(event, run=run)
    line, own = encode(entry, "before")
    assert decode(line[:-1], "before") == (entry, own)


@given(st.data())
def test_any_changed_byte_of_a_line_is_noticed(data: st.DataObject) -> None:
    line = bytearray(encode(entry_of(), first_hash("rows"))[0][:-1])
    at = data.draw(st.integers(0, len(line) - 1))
    line[at] ^= data.draw(st.integers(1, 255))
    with pytest.raises(ValueError):
        decode(bytes(line), first_hash("rows"))


def test_any_changed_byte_of_a_book_stops_the_work(tmp_path: Path) -> None:
    book = written(tmp_path, 1)
    whole = (tmp_path / "rows.jsonl").read_bytes()
    for at in range(len(whole)):
        (tmp_path / "rows.jsonl").write_bytes(whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :])
        with pytest.raises(BookBroken):
            book.entries()
    (tmp_path / "rows.jsonl").write_bytes(whole)
    assert len(book.entries()) == 1


def test_any_cut_end_of_a_book_stops_the_work(tmp_path: Path) -> None:
    book = written(tmp_path, 2)
    whole = (tmp_path / "rows.jsonl").read_bytes()
    first = whole.index(b"\n") + 1
    for size in sorted({*range(0, len(whole), 7), first - 1, first, first + 1, len(whole) - 1}):
        (tmp_path / "rows.jsonl").write_bytes(whole[:size])
        with pytest.raises(BookBroken):
            book.entries()


@pytest.mark.parametrize("order", [[1, 0, 2], [0, 2], [1, 2], [0, 1, 1, 2], [0, 0, 1, 2]])
def test_dropped_repeated_and_reordered_lines_stop_the_work(tmp_path: Path, order: list[int]) -> None:
    book = written(tmp_path)
    lines = (tmp_path / "rows.jsonl").read_bytes().splitlines(keepends=True)
    (tmp_path / "rows.jsonl").write_bytes(b"".join(lines[at] for at in order))
    with pytest.raises(BookBroken, match="put the newest copy of both files back"):
        book.entries()


def test_an_older_copy_that_was_put_back_is_noticed(tmp_path: Path) -> None:
    book = written(tmp_path, 2)
    old = (tmp_path / "rows.jsonl").read_bytes()
    written(tmp_path, 1)
    (tmp_path / "rows.jsonl").write_bytes(old)
    with pytest.raises(BookBroken, match="holds 2 entries and once held 3"):
        book.entries()


def test_a_book_that_went_another_way_after_an_older_copy_is_noticed(tmp_path: Path) -> None:
    written(tmp_path / "a", 1)
    book = Book(tmp_path / "a", "rows")
    (tmp_path / "b").mkdir()
    for name in ("rows.jsonl", "rows.head"):
        (tmp_path / "b" / name).write_bytes((tmp_path / "a" / name).read_bytes())
    with book.open() as pen:
        pen.append(entry_of(run="seen"))
    with Book(tmp_path / "b", "rows").open() as pen:
        pen.append(entry_of(run="another"))
    (tmp_path / "a" / "rows.jsonl").write_bytes((tmp_path / "b" / "rows.jsonl").read_bytes())
    with pytest.raises(BookBroken, match="is not the book that rows"):
        book.entries()


@pytest.mark.parametrize("name", ["rows.jsonl", "rows.head"])
def test_a_deleted_half_of_the_book_is_noticed(tmp_path: Path, name: str) -> None:
    book = written(tmp_path)
    (tmp_path / name).unlink()
    with pytest.raises(BookBroken, match="delete both"):
        book.entries()


def test_who_deletes_both_files_knowingly_begins_anew(tmp_path: Path) -> None:
    book = written(tmp_path)
    for name in ("rows.jsonl", "rows.head"):
        (tmp_path / name).unlink()
    assert book.entries() == ()
    assert len(written(tmp_path, 1).entries()) == 1


@pytest.mark.parametrize("content", [b"", b"{}", b"[1]", b'{"entries": 3}', b'{"entries": "x", "hash": ""}', b"\xff"])
def test_a_damaged_head_stops_the_work(tmp_path: Path, content: bytes) -> None:
    book = written(tmp_path)
    (tmp_path / "rows.head").write_bytes(content)
    with pytest.raises(BookBroken):
        book.entries()


def test_a_book_does_not_pass_for_another_data_sets(tmp_path: Path) -> None:
    written(tmp_path)
    for name in ("jsonl", "head"):
        (tmp_path / f"rows.{name}").rename(tmp_path / f"other.{name}")
    with pytest.raises(BookBroken, match="line 1"):
        Book(tmp_path, "other").entries()


def test_a_torn_last_line_is_dropped_with_a_warning_at_the_next_entry(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    book = written(tmp_path, 2)
    line = encode(entry_of(run="never began"), "x")[0]
    with (tmp_path / "rows.jsonl").open("ab") as file:
        file.write(line[:-1])
    assert len(book.entries()) == 2
    with book.open() as pen:
        pen.append(entry_of(run="after"))
    assert "unfinished line" in caplog.text
    assert [entry.run for entry in book.entries()] == ["run", "run", "after"]


def test_a_last_line_that_is_damaged_and_ends_is_no_torn_one(tmp_path: Path) -> None:
    book = written(tmp_path, 2)
    with (tmp_path / "rows.jsonl").open("ab") as file:
        file.write(b"{}\n")
    with pytest.raises(BookBroken, match="line 3"), book.open():
        pytest.fail("a broken book was opened")


def test_a_disk_that_does_not_take_the_entry_is_said_and_leaves_the_book_as_it_was(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    book = written(tmp_path, 1)

    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr("os.fsync", full)
        with pytest.raises(BookBusy, match="nothing was begun"), book.open() as pen:
            pen.append(entry_of(run="too much"))
    assert [entry.run for entry in book.entries()] == ["run"]


def test_a_book_that_another_holds_is_waited_for_and_then_given_up(tmp_path: Path) -> None:
    written(tmp_path, 1)
    with Book(tmp_path, "rows").open(), pytest.raises(BookBusy, match="another process"):
        Book(tmp_path, "rows", lock_wait_s=0.1).entries()


def test_a_folder_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(BookBusy, match="name another with --budget"), Book(tmp_path / "file" / "in", "rows").open():
        pytest.fail("a book was opened in a file")
