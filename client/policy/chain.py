"""A book as it lies on the disk: its lines, the small file that remembers the last one, and what is wrong with them."""

import json
import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from client.policy.declined import BookBroken, BookBusy
from client.policy.entry import Entry, decode, encode, first_hash
from fedtune.errors import RunError
from fedtune.runs.atomic import append_durably, storage_errors, write_atomically

_log = logging.getLogger("fedtune.client")

WAY_OUT = (
    "put the newest copy of both files back, or, knowing that what was spent is then forgotten, delete both and start "
    "a new book"
)


@dataclass(frozen=True, slots=True)
class Pages:
    """What was read: whole entries, the hash of the last, and the bytes that they take."""

    entries: tuple[Entry, ...]
    last: str
    size: int
    torn: int
    """Bytes of a line behind them that was never finished: its writer died before anything was done."""


class Chain:
    """The two files of one data set's book: `<dataset>.jsonl` and `<dataset>.head`.

    Guarantees: an entry is there whole and durable when `append` returns, and the head file knows it. Every byte of the
    book is checked when it is read. The head tells an older copy of the book from the newest; an older copy of both
    files looks like the newest, for nothing on this machine remembers more.
    """

    def __init__(self, folder: Path, dataset: str) -> None:
        self._dataset = dataset
        self.path = folder / f"{dataset}.jsonl"
        self.head = folder / f"{dataset}.head"

    def exists(self) -> bool:
        """Is there anything of this book?"""
        return self.path.exists() or self.head.exists()

    def read(self) -> Pages:
        """Every whole entry, for who holds the book's lock.

        Raises BookBroken where the chain or the head says that they are not what was written.
        """
        remembered = self._remembered()
        try:
            content = self.path.read_bytes()
        except FileNotFoundError:
            content = b""
        except OSError as error:
            raise BookBusy(f"{self.path} cannot be read: {error.strerror or error}") from error
        entries, hashes = self._parse(content)
        self._compare(remembered, hashes)
        size = content.rfind(b"\n") + 1
        return Pages(tuple(entries), hashes[-1], size, len(content) - size)

    def append(self, entry: Entry, pages: Pages) -> Pages:
        """Write one entry behind `pages`, drop an unfinished line first; the caller holds the book's lock.

        Raises BookBusy where the disk does not take it; the book is then as it was.
        """
        line, own = encode(entry, pages.last)
        with _disk_errors():
            if pages.torn:
                self._drop(pages)
            with storage_errors(self.path):
                append_durably(self.path, line, private=True)
            head = {"entries": len(pages.entries) + 1, "hash": own}
            write_atomically(self.head, json.dumps(head).encode() + b"\n", private=True)
        return Pages((*pages.entries, entry), own, pages.size + len(line), 0)

    def _drop(self, pages: Pages) -> None:
        _log.warning("%s ends in an unfinished line, whose work never began: it is dropped", self.path)
        with storage_errors(self.path), self.path.open("r+b") as file:
            os.ftruncate(file.fileno(), pages.size)
            os.fsync(file.fileno())

    def _parse(self, content: bytes) -> tuple[list[Entry], list[str]]:
        entries, hashes = [], [first_hash(self._dataset)]
        for number, line in enumerate(content.split(b"\n")[:-1], start=1):
            try:
                entry, own = decode(line, hashes[-1])
            except (ValueError, KeyError, TypeError, AttributeError) as error:
                raise BookBroken(f"{self.path}, line {number} is not what was written: {WAY_OUT}") from error
            entries.append(entry)
            hashes.append(own)
        return entries, hashes

    def _remembered(self) -> tuple[int, str] | None:
        try:
            head = json.loads(self.head.read_bytes())
            return int(head["entries"]), str(head["hash"])
        except FileNotFoundError:
            return None
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise BookBroken(f"{self.head} cannot be read: {WAY_OUT}") from error

    def _compare(self, remembered: tuple[int, str] | None, hashes: list[str]) -> None:
        if remembered is None:
            # A crash may leave a first line whose head was not yet written, never a second one.
            if len(hashes) > 2:
                raise BookBroken(f"{self.head} is missing, which knows the last line of {self.path.name}: {WAY_OUT}")
            return
        count, own = remembered
        if count >= len(hashes):
            raise BookBroken(
                f"{self.path} holds {len(hashes) - 1} entries and once held {count}: an older copy was put back, or "
                f"its end was cut off; {WAY_OUT}"
            )
        if count < 1 or hashes[count] != own:
            raise BookBroken(f"{self.path} is not the book that {self.head.name} remembers: {WAY_OUT}")


@contextmanager
def _disk_errors() -> Iterator[None]:
    try:
        yield
    except RunError as error:
        cause = error.__cause__
        why = cause.strerror or str(cause) if isinstance(cause, OSError) else str(error)
        raise BookBusy(
            f"the budget book cannot be written ({why}), so nothing was begun; make room or rights"
        ) from error
