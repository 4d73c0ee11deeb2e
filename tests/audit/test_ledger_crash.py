"""A ledger after real deaths: killed at every step of every write, it opens with all that was acknowledged."""

import logging
import multiprocessing
import os
import random
import signal
import tempfile
import time
from pathlib import Path

import pytest
from ledger_examples import a_plan, abort, commit, opening, private_recipe, reserve

from fedtune.audit.ledger import LedgerWriter, read_ledger
from fedtune.errors import LedgerBroken, RunError
from fedtune.runs import atomic

ROUNDS = 2
RECIPE = private_recipe()


@pytest.fixture
def memory():
    """A folder in memory where there is one: what a kill leaves does not depend on the disk."""
    with tempfile.TemporaryDirectory(dir="/dev/shm" if Path("/dev/shm").is_dir() else None) as name:
        yield Path(name)


def go_on(folder: Path, acknowledged: Path, rounds: int = ROUNDS) -> None:
    """Write what is missing of a ledger; each entry is acknowledged in a file of its own kind of writing."""
    descriptor = os.open(acknowledged, os.O_WRONLY | os.O_CREAT | os.O_APPEND)

    def append(body) -> None:
        os.write(descriptor, writer.append(body).hash.hex().encode() + b"\n")

    writer = LedgerWriter.of(folder)
    if writer.story.opened is None:
        append(opening(writer, RECIPE))
    if writer.story.pending:
        append(abort(writer, "interrupted"))
    done = sum(entry.kind == "commit" for entry in read_ledger(folder).entries)
    for round_ in range(done + 1, rounds + 1):
        append(reserve(round_, a_plan(RECIPE)))
        append(commit(writer))


def die_at(number: int, folder: Path, acknowledged: Path) -> None:
    """Write the ledger, and die without a goodbye at the `number`-th step of opening, writing, syncing and renaming."""
    seen = 0

    def step() -> None:
        nonlocal seen
        seen += 1
        if seen == number:
            os._exit(9)

    def around(function):
        def call(*arguments):
            step()
            value = function(*arguments)
            step()
            return value

        return call

    class Dying:
        """A file that may take a part of what it is given, and no more."""

        def __init__(self, file) -> None:
            self._file = file

        def __getattr__(self, name):
            return getattr(self._file, name)

        def __enter__(self):
            return self

        def __exit__(self, *_):
            self._file.close()

        def write(self, data):
            done = 0
            for part in (data[:1], data[1 : len(data) // 2], data[len(data) // 2 : -1], data[-1:]):
                step()
                done += self._file.write(part)
                self._file.flush()
            step()
            return done

    real_open = open

    def opened(*arguments, **named):
        step()
        return Dying(real_open(*arguments, **named))

    atomic.open = opened
    os.fsync = around(os.fsync)
    os.replace = around(os.replace)
    go_on(folder, acknowledged)
    os._exit(0)


def in_child(work, *arguments) -> int:
    process = multiprocessing.get_context("fork").Process(target=work, args=arguments)
    process.start()
    process.join(60)
    return process.exitcode if process.exitcode is not None else -1


def hashes(folder: Path) -> list[str]:
    """What the next process finds, after it has mended the end; nothing where the first entry was not written."""
    writer = LedgerWriter.of(folder)
    return [entry.hash.hex() for entry in read_ledger(folder).entries] if writer.last else []


def check(folder: Path, acknowledged: Path) -> int:
    """All that was acknowledged is there, in order, and at most one entry more."""
    promised = acknowledged.read_text().split() if acknowledged.exists() else []
    found = hashes(folder)
    assert found[: len(promised)] == promised
    assert len(found) <= len(promised) + 1
    return len(found)


@pytest.mark.processes
def test_killed_at_every_step_of_every_write(memory):
    """Opening, each part of a line, its newline, fsync, the key files: dozens of deaths, each gone on from."""
    deaths, extra = 0, 0
    while True:
        folder, acknowledged = memory / f"run-{deaths}", memory / f"acknowledged-{deaths}"
        folder.mkdir()
        code = in_child(die_at, deaths + 1, folder, acknowledged)
        if code != 9:
            break
        deaths += 1
        before = len(acknowledged.read_text().split()) if acknowledged.exists() else 0
        extra += check(folder, acknowledged) > before
        acknowledged.unlink(missing_ok=True)
        go_on(folder, acknowledged)
        ledger = read_ledger(folder)
        assert ledger.pending is None
        assert [e.kind for e in ledger.entries].count("commit") == ROUNDS
    assert code == 0
    assert deaths > 50
    assert extra >= 5, "entries that were whole on the disk, and not yet acknowledged, are kept"


@pytest.mark.processes
def test_killed_at_random_moments_again_and_again(memory):
    """SIGKILL a dozen times: no acknowledged entry is ever lost, across all of the deaths."""
    folder, acknowledged, dice = memory / "run", memory / "acknowledged", random.Random(3)
    folder.mkdir()
    for _ in range(12):
        process = multiprocessing.get_context("fork").Process(target=go_on, args=(folder, acknowledged, 4000))
        process.start()
        time.sleep(dice.uniform(0.05, 0.2))
        os.kill(process.pid, signal.SIGKILL)
        process.join()
        promised = acknowledged.read_text().split() if acknowledged.exists() else []
        found = hashes(folder)
        # An entry that was whole and not acknowledged stays, so what was promised is in order, with gaps.
        places = [found.index(hash_) for hash_ in promised]
        assert places == sorted(places)
    assert len(found) > 20


def test_a_torn_last_line_is_cut_off_and_said(tmp_path, caplog):
    go_on(tmp_path, tmp_path / "acknowledged")
    path = tmp_path / "ledger.jsonl"
    whole = path.read_bytes()
    start = whole[:-1].rfind(b"\n") + 1
    for stop in (start + 1, start + 100, len(whole) - 2):
        path.write_bytes(whole[:stop])
        with caplog.at_level(logging.WARNING):
            writer = LedgerWriter.of(tmp_path)
        assert "cut off a torn last line" in caplog.text
        assert path.read_bytes() == whole[:start]
        assert writer.story.pending is not None, "the reservation whose commit was torn is open, and spent"
        caplog.clear()


def test_a_last_line_that_lacks_nothing_but_its_newline_is_kept_and_said(tmp_path, caplog):
    """It may be a reservation: cutting it off would forget what may be spent."""
    go_on(tmp_path, tmp_path / "acknowledged")
    path = tmp_path / "ledger.jsonl"
    whole = path.read_bytes()
    path.write_bytes(whole[:-1])
    with pytest.raises(LedgerBroken, match="cut short"):
        read_ledger(tmp_path)
    with caplog.at_level(logging.WARNING):
        LedgerWriter.of(tmp_path)
    assert path.read_bytes() == whole
    assert "finished the last line" in caplog.text


def test_anything_else_that_is_wrong_is_not_mended(tmp_path):
    go_on(tmp_path, tmp_path / "acknowledged")
    path = tmp_path / "ledger.jsonl"
    whole = path.read_bytes()
    for place in (40, len(whole) // 2, len(whole) - 5):
        changed = whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :]
        path.write_bytes(changed)
        with pytest.raises(LedgerBroken):
            LedgerWriter.of(tmp_path)
        assert path.read_bytes() == changed


def test_a_disk_that_takes_no_more_leaves_the_ledger_as_it_was(tmp_path, monkeypatch):
    writer = LedgerWriter.of(tmp_path)
    writer.append(opening(writer, RECIPE))
    before = writer.path.read_bytes()

    def full(_):
        raise OSError(28, "no space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(os, "fsync", full)
        with pytest.raises(RunError, match="disk is full"):
            writer.append(reserve(1, a_plan(RECIPE)))
    assert writer.path.read_bytes() == before
    writer.append(reserve(1, a_plan(RECIPE)))
    assert len(read_ledger(tmp_path).entries) == 2
