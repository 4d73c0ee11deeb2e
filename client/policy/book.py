"""The book of one data set: what was spent on it, by whomever, under one lock from the check to the entry."""

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

from filelock import FileLock, Timeout

from client.policy.chain import Chain, Pages
from client.policy.declined import BookBusy
from client.policy.entry import Entry

LOCK_WAIT_S = 300.0
"""An accountant may take seconds under the lock; what takes minutes has hung."""


class Pen:
    """The open book: what stands in it, and the next entry."""

    def __init__(self, chain: Chain, pages: Pages) -> None:
        self._chain = chain
        self._pages = pages

    @property
    def entries(self) -> tuple[Entry, ...]:
        """Everything that stands in the book."""
        return self._pages.entries

    def append(self, entry: Entry) -> int:
        """Write an entry and wait until it is on the disk; returns its position."""
        self._pages = self._chain.append(entry, self._pages)
        return len(self._pages.entries) - 1


class Book:
    """A data set's book in a folder for its owner alone.

    Guarantees: while one process has the book open nobody else can write, so that what was checked is still so when it
    is written down; a process that dies lets go of it. An entry that was written is never lost or changed unseen
    (`Chain`), and a reservation without its `done` stays spent.
    """

    def __init__(self, folder: Path, dataset: str, *, lock_wait_s: float = LOCK_WAIT_S) -> None:
        self._folder = folder
        self._lock_wait_s = lock_wait_s
        self._chain = Chain(folder, dataset)
        self.dataset = dataset

    def entries(self) -> tuple[Entry, ...]:
        """Everything that stands in the book, nothing where there is none; raises BookBroken, BookBusy."""
        if not self._chain.exists():
            return ()
        with self.open() as pen:
            return pen.entries

    @contextmanager
    def open(self) -> Iterator[Pen]:
        """The book, locked; raises BookBusy where it cannot be had, BookBroken where it is not what was written."""
        self._make_folder()
        lock = FileLock(self._folder / f"{self.dataset}.lock", timeout=self._lock_wait_s, mode=0o600)
        try:
            lock.acquire()
        except Timeout as error:
            raise BookBusy(f"another process has held the budget book {self._chain.path} for too long") from error
        except OSError as error:
            raise BookBusy(f"{self._folder} cannot be locked: {error.strerror or error}") from error
        try:
            yield Pen(self._chain, self._chain.read())
        finally:
            lock.release()

    def _make_folder(self) -> None:
        try:
            self._folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        except OSError as error:
            raise BookBusy(
                f"the folder of budget books {self._folder} cannot be made: {error.strerror or error}; name another "
                "with --budget"
            ) from error


def now_utc() -> str:
    """The present moment as entries write it."""
    return datetime.now(UTC).isoformat(timespec="seconds")
