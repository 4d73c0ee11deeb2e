"""A disk that is full and a file that may not grow: one sentence, and everything written before stays."""

import multiprocessing
import os
import resource
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from runs_examples import make_recipe, make_record, make_state

from fedtune.errors import RunError
from fedtune.runs.atomic import storage_errors, write_atomically
from fedtune.runs.checkpoint import Checkpoint
from fedtune.runs.folder import RunFolder
from fedtune.state import digest

pytestmark = pytest.mark.processes


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A real file system of 1 MiB; skipped where this process may not mount one."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=1M", "tmpfs", str(disk)]
    if subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("mounting a small file system is not allowed here")
    yield disk
    subprocess.run(["umount", str(disk)], check=True)


def test_a_full_disk_stops_with_one_sentence_and_the_run_resumes_when_there_is_room(small_disk: Path) -> None:
    ballast = small_disk / "ballast"
    with RunFolder.create(make_recipe(small_disk)) as folder:
        folder.finish_round(make_record(0), Checkpoint(0, make_state(0, 100)))
        free = os.statvfs(small_disk).f_bavail * os.statvfs(small_disk).f_frsize
        ballast.write_bytes(bytes(free - 24_000))
        with pytest.raises(RunError, match="the disk is full; free some space, then go on with --resume"):
            folder.finish_round(make_record(1), Checkpoint(1, make_state(1, 100)))
    read = RunFolder.open(folder.path)
    latest = read.checkpoints.latest()
    assert latest is not None
    assert digest(latest.state) == digest(make_state(0, 100))
    assert not list(folder.path.rglob(".part-*"))
    ballast.unlink()
    with RunFolder.create(make_recipe(small_disk), resume=True) as again:
        checkpoint = again.rewind()
        assert checkpoint is not None
        assert checkpoint.round == 0
        again.finish_round(make_record(1), Checkpoint(1, make_state(1, 100)))


def test_a_full_disk_takes_no_half_line(small_disk: Path) -> None:
    with RunFolder.create(make_recipe(small_disk)) as folder:
        folder.journal.append(make_record(0))
        free = os.statvfs(small_disk).f_bavail * os.statvfs(small_disk).f_frsize
        (small_disk / "ballast").write_bytes(bytes(free))
        clients = make_record(1).clients * 100
        with pytest.raises(RunError, match="the disk is full"):
            folder.journal.append(make_record(1, clients=clients))
        assert folder.rounds() == (make_record(0),)
        assert folder.journal.path.read_bytes().endswith(b"\n")
        (small_disk / "ballast").unlink()
        folder.journal.append(make_record(1, clients=clients))
        assert len(folder.rounds()) == 2


def _outgrow(path: Path) -> None:
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))
    try:
        write_atomically(path, bytes(10_000))
    except RunError as error:
        os._exit(0 if "size limit" in str(error) and path.read_bytes() == b"old" else 2)
    os._exit(3)


def test_a_file_size_limit_leaves_the_old_file(tmp_path: Path) -> None:
    (tmp_path / "run.json").write_bytes(b"old")
    process = multiprocessing.get_context("fork").Process(target=_outgrow, args=(tmp_path / "run.json",))
    process.start()
    process.join()
    assert process.exitcode == 0
    assert [p.name for p in tmp_path.iterdir()] == ["run.json"]


def test_an_error_without_a_known_cause_keeps_the_system_s_words(tmp_path: Path) -> None:
    with pytest.raises(RunError, match="cannot be written: No such file or directory"), storage_errors(tmp_path):
        (tmp_path / "nowhere" / "file").write_bytes(b"")
