"""A client that is killed at any write, sync or rename: what it worked on is spent, and the book is readable."""

import builtins
import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from client.policy.book import Book
from client.policy.chain import Chain
from fedtune.runs import atomic
from tests.client.budgets import guard_of, recipe_of, task_of

HALF, AFTER = "half", "after"
"""A kill with half of an operation's bytes written (before it, where it is no write), and just after it."""


class KilledAt:
    """Counts what touches the disk, and sends this process SIGKILL at the n-th operation."""

    def __init__(self, count: int, moment: str) -> None:
        self._left = count
        self._moment = moment

    def hook(self) -> None:
        """Watch every way by which a book is written."""
        for name in ("fsync", "replace", "ftruncate"):
            setattr(os, name, self._counted(getattr(os, name)))
        atomic.open = self._open  # type: ignore[attr-defined]

    def _counted(self, operation: Callable[..., Any]) -> Callable[..., Any]:
        def do(*args: Any) -> Any:
            self._left -= 1
            if not self._left and self._moment != AFTER:
                _die()
            result = operation(*args)
            if not self._left:
                _die()
            return result

        return do

    def _open(self, *args: Any, **options: Any) -> Any:
        file = builtins.open(*args, **{**options, "buffering": 0})  # noqa: SIM115
        return _Watched(file, self._counted(file.write), self)

    def is_half(self) -> bool:
        """Is the next operation the one that is to be left half done?"""
        return self._left == 1 and self._moment == HALF


class _Watched:
    """A file whose writes are counted."""

    def __init__(self, file: Any, write: Callable[..., Any], killed: KilledAt) -> None:
        self._file, self._write, self._killed = file, write, killed

    def write(self, content: bytes) -> int:
        if self._killed.is_half():
            self._file.write(content[: len(content) // 2])
        return int(self._write(content))

    def __getattr__(self, name: str) -> Any:
        return getattr(self._file, name)

    def __enter__(self) -> "_Watched":
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()


def _die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def in_a_process(work: Callable[[], None], killed: KilledAt) -> bool:
    """Do `work` in a forked process; was it killed?"""
    child = os.fork()
    if not child:
        try:
            killed.hook()
            work()
        finally:
            os._exit(3)
    _, status = os.waitpid(child, 0)
    assert os.WIFSIGNALED(status) or os.waitstatus_to_exitcode(status) == 3
    return os.WIFSIGNALED(status)


def take_part(folder: Path, worked: Path) -> None:
    """A round: reserved, then worked on (a byte in `worked` stands for a trained round), then done."""
    guard, recipe = guard_of(folder), recipe_of()
    done = guard.reserve(task_of(recipe), recipe, "me", rows=10)
    descriptor = os.open(worked, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    os.write(descriptor, b"x")
    os.close(descriptor)
    done()


@pytest.mark.parametrize("moment", [HALF, AFTER])
@pytest.mark.parametrize("torn", [False, True])
def test_whoever_is_killed_has_spent_what_was_worked_on(tmp_path: Path, moment: str, torn: bool) -> None:
    points = 0
    for count in range(1, 200):
        folder, worked = tmp_path / f"{count}", tmp_path / f"{count}.worked"
        worked.touch()
        if torn:  # what an earlier kill may leave
            take_part(folder, tmp_path / "warm-up")
            with (folder / "rows.jsonl").open("ab") as file:
                file.write(b'{"previous":"')
        before = len(Chain(folder, "rows").read().entries)
        killed = in_a_process(lambda f=folder, w=worked: take_part(f, w), KilledAt(count, moment))
        entries = Book(folder, "rows").entries()[before:]
        reserved = [entry for entry in entries if entry.what == "reserve"]
        assert len(reserved) >= worked.stat().st_size
        assert all(entry.events for entry in reserved)
        take_part(folder, worked)  # the book goes on
        assert len(Book(folder, "rows").entries()) == before + len(entries) + 2
        if not killed:
            break
        points += 1
    else:
        pytest.fail("the kill points did not come to an end")
    assert points >= 2 * 5 + (2 if torn else 1)  # a line, a head; the folder's sync or the dropped line
    assert len(reserved) == 1


def test_a_kill_between_line_and_head_is_no_broken_book(tmp_path: Path) -> None:
    take_part(tmp_path, tmp_path / "worked")
    head = (tmp_path / "rows.head").read_bytes()
    guard_of(tmp_path).reserve(task_of(recipe_of(), round_=3), recipe_of(), "me", rows=10)
    (tmp_path / "rows.head").write_bytes(head)
    assert len(Book(tmp_path, "rows").entries()) == 3


def test_what_was_never_finished_stays_spent(tmp_path: Path) -> None:
    guard, recipe = guard_of(tmp_path), recipe_of()
    guard.reserve(task_of(recipe), recipe, "me", rows=10)
    assert [entry.what for entry in Book(tmp_path, "rows").entries()] == ["reserve"]
    guard.reserve(task_of(recipe), recipe, "me", rows=10)()
    assert [entry.what for entry in Book(tmp_path, "rows").entries()] == ["reserve", "reserve", "done"]
