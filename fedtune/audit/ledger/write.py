"""Writing a ledger: entries are on the disk before anybody acts on them, and a crash takes none of them away."""

import logging
import os
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

from fedtune.audit.ledger.bodies import Body, ReserveBody
from fedtune.audit.ledger.digests import GENESIS
from fedtune.audit.ledger.entry import Entry, make_line, read_line
from fedtune.audit.ledger.head import Offer
from fedtune.audit.ledger.read import LEDGER_NAME, read_entries
from fedtune.audit.ledger.signing import KEY_NAME, Signer
from fedtune.audit.ledger.story import Story
from fedtune.audit.ledger.tally import tally
from fedtune.errors import LedgerBroken
from fedtune.runs.atomic import append_durably, storage_errors, sync_folder

logger = logging.getLogger(__name__)


class LedgerWriter:
    """The ledger of one run folder, whose lock the caller holds.

    Guarantees: `append` returns when the entry is on the disk, and refuses one that cannot come next; killed at any
    moment, the ledger opens again with every entry that `append` returned, and at most one more.
    """

    def __init__(
        self, folder: Path, signer: Signer, entries: Sequence[Entry], story: Story, *, by_the_day: bool = False
    ) -> None:
        self.path = folder / LEDGER_NAME
        self.story = story
        """What has happened so far; to be read."""
        self.tally = tally(entry.body for entry in entries if isinstance(entry.body, ReserveBody))
        """What was spent so far; to be read."""
        self.last = entries[-1] if entries else None
        """The last entry."""
        self._signer = signer
        self._by_the_day = by_the_day
        # Bodies name every participant of every round: 32 bytes an entry are enough to go on with.
        self._contents = [entry.content for entry in entries]

    @classmethod
    def of(cls, folder: Path, *, by_the_day: bool = False) -> "LedgerWriter":
        """The ledger in `folder`, to go on with; an empty one, with a fresh key, where there is none.

        `by_the_day`: entries say the day and not the moment, where the time of a round would tell how many were drawn.
        A last line without its newline was never acknowledged: it is finished where it is whole but for that, for it
        may charge somebody, and cut off where it is torn. Both are logged. Raises LedgerBroken where another byte is
        wrong, or the key is gone or another's.
        """
        path = folder / LEDGER_NAME
        if not path.exists():
            return cls(folder, Signer.of(folder), [], Story(), by_the_day=by_the_day)
        _mend(path)
        entries, story = read_entries(path.read_bytes(), path)
        if entries and not (folder / KEY_NAME).exists():
            raise LedgerBroken(f"{folder / KEY_NAME} is missing, and nothing can be added to the ledger without it")
        signer = Signer.of(folder)
        if story.opened and story.opened.public_key != signer.public_key:
            raise LedgerBroken(f"{folder / KEY_NAME} is not the key of the ledger beside it; restore it from a copy")
        return cls(folder, signer, entries, story, by_the_day=by_the_day)

    @property
    def public_key(self) -> str:
        """64 hex digits."""
        return self._signer.public_key

    def append(self, body: Body) -> Entry:
        """Add an entry; raises LedgerBroken where it cannot come next, RunError where the disk does not take it."""
        seq, prev = (self.last.seq + 1, self.last.hash) if self.last else (0, GENESIS)
        line = make_line(seq, prev, body, self._now(), self._signer)
        entry = read_line(line[:-1])
        self.story.check(entry)
        with storage_errors(self.path):
            append_durably(self.path, line)
        self.story.take(entry)
        if isinstance(entry.body, ReserveBody):
            self.tally.add(entry.body)
        self.last = entry
        self._contents.append(entry.content)
        return entry

    def _now(self) -> str:
        now = datetime.now(UTC)
        if self._by_the_day:
            now = now.replace(hour=0, minute=0, second=0, microsecond=0)
        return now.isoformat(timespec="milliseconds")

    def offer(self, since: int) -> Offer:
        """The head with the links behind entry `since`; -1 for all of them."""
        if self.last is None:
            raise LedgerBroken("a ledger without entries has no head")
        since = min(since, self.last.seq)
        return Offer(head=self.last.head(self.public_key), since=since, links=tuple(self._contents[since + 1 :]))


def _mend(path: Path) -> None:
    """Bring the end of the file to a whole line."""
    with storage_errors(path):
        content = path.read_bytes()
        sync_folder(path.parent)
        torn = content[content.rfind(b"\n") + 1 :]
        if not torn:
            return
        if _is_whole(torn):
            append_durably(path, b"\n")
            logger.warning("finished the last line of %s, which a crash left without its end", path)
            return
        with path.open("rb+") as file:
            file.truncate(len(content) - len(torn))
            os.fsync(file.fileno())
    logger.warning("cut off a torn last line of %d bytes in %s, which was never acknowledged", len(torn), path)


def _is_whole(line: bytes) -> bool:
    try:
        read_line(line)
    except LedgerBroken:
        return False
    return True
