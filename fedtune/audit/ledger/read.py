"""Reading a ledger: every byte of it checked, then its entries typed."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from fedtune.audit.ledger.bodies import OpenBody, ReserveBody
from fedtune.audit.ledger.digests import GENESIS, to_sign
from fedtune.audit.ledger.entry import Entry, read_line
from fedtune.audit.ledger.head import Head
from fedtune.audit.ledger.signing import is_signed
from fedtune.audit.ledger.story import Story
from fedtune.audit.ledger.tally import Tally, tally
from fedtune.errors import LedgerBroken

LEDGER_NAME = "ledger.jsonl"


@dataclass(frozen=True, slots=True)
class Ledger:
    """A ledger that was read whole.

    Guarantees: the entries are chained, signed by `public_key` and in an order that can be; whose key that is, and
    whether entries are missing at the end, a file cannot say of itself.
    """

    path: Path
    entries: tuple[Entry, ...]
    opened: OpenBody
    closed: bool
    """Does it end with `close`?"""
    pending: ReserveBody | None
    """The reservation that was neither committed nor aborted; it is spent."""

    @property
    def public_key(self) -> str:
        """64 hex digits."""
        return self.opened.public_key

    @property
    def head(self) -> Head:
        """The last entry."""
        return self.entries[-1].head(self.public_key)

    def reservations(self) -> Iterator[ReserveBody]:
        """All of them, in order."""
        return (entry.body for entry in self.entries if isinstance(entry.body, ReserveBody))


def read_ledger(path: Path) -> Ledger:
    """The ledger of a run folder, or in a file; raises LedgerBroken, which says what is wrong with which entry."""
    file = ledger_file(path)
    return parse_ledger(_content(file), file)


def parse_ledger(content: bytes, file: Path) -> Ledger:
    """The ledger in the bytes of `file`; raises LedgerBroken, which says what is wrong with which entry."""
    if not content.endswith(b"\n"):
        count = content.count(b"\n")
        raise LedgerBroken(
            f"entry {count} of {file} is cut short: the writer was killed before it was acknowledged (--resume cuts it "
            "off), or the file was truncated"
            if content
            else f"{file} is empty: nothing says what was spent"
        )
    entries, story = read_entries(content, file)
    if story.opened is None:
        raise LedgerBroken(f"{file} does not begin with `open`")
    pending = story.reservation()[1] if story.pending else None
    return Ledger(file, tuple(entries), story.opened, story.closed, pending)


def read_entries(content: bytes, path: Path) -> tuple[list[Entry], Story]:
    """The entries of whole lines; raises LedgerBroken with the number of the first that is wrong."""
    story, entries = Story(), list[Entry]()
    for number, raw in enumerate(content.split(b"\n")[:-1]):
        try:
            entry = read_line(raw)
            check_place(entry, entries[-1] if entries else None)
            story.take(entry)
            _check_signed(entry, story)
        except LedgerBroken as error:
            raise LedgerBroken(f"entry {number} of {path}: {error}") from error
        entries.append(entry)
    return entries, story


def check_place(entry: Entry, before: Entry | None) -> None:
    """Raise LedgerBroken where `entry` does not follow `before`."""
    if entry.seq != (before.seq + 1 if before else 0):
        raise LedgerBroken(f"it calls itself entry {entry.seq}: entries were dropped, repeated or moved")
    if entry.prev != (before.hash if before else GENESIS):
        raise LedgerBroken("it does not follow from the entry before it: that one was changed, or this one is foreign")


def spent(ledger: Ledger) -> Tally:
    """What everybody and each participant has spent, recomputed from the reservations alone."""
    return tally(ledger.reservations())


def ledger_file(path: Path) -> Path:
    """The ledger in a run folder; `path` itself where it is a file."""
    return path / LEDGER_NAME if path.is_dir() else path


def position_of(ledger: Ledger, hash_: str) -> int | None:
    """The number of the entry with this hash; None where there is none."""
    return next((entry.seq for entry in ledger.entries if entry.hash.hex() == hash_), None)


def _content(file: Path) -> bytes:
    try:
        return file.read_bytes()
    except FileNotFoundError as error:
        raise LedgerBroken(f"there is no ledger at {file}; a run with privacy.unit = 'none' keeps none") from error
    except OSError as error:
        raise LedgerBroken(f"{file} cannot be read: {error.strerror}") from error


def _check_signed(entry: Entry, story: Story) -> None:
    key = story.opened.public_key if story.opened else ""
    if not is_signed(key, entry.signature, to_sign(entry.seq, entry.hash)):
        raise LedgerBroken("its signature is not that of the ledger's key")
