"""Writing a ledger: entries are on the disk before anybody acts on them, and a crash takes none of them away."""

import logging
import os
from datetime import UTC, datetime
from pathlib import Path

from fedtune.audit.ledger.bodies import Body
from fedtune.audit.ledger.digests import GENESIS
from fedtune.audit.ledger.entry import Entry, make_line, read_line
from fedtune.audit.ledger.head import Offer
from fedtune.audit.ledger.read import LEDGER_NAME, read_entries
from fedtune.audit.ledger.signing import KEY_NAME, Signer
from fedtune.audit.ledger.story import Story
from fedtune.errors import LedgerBroken
from fedtune.runs.atomic import append_durably, storage_errors, sync_folder

logger = logging.getLogger(__name__)


class LedgerWriter:
    """The ledger of one run folder, whose lock the caller holds.

    Guarantees: `append` returns when the entry is on the disk, and refuses one that cannot come next; killed at any
    moment, the ledger opens again with every entry that `append` returned, and at most one more.
    """

    def __init__(self, folder: Path, signer: Signer, entries: list[Entry], story: Story) -> None:
        self.path = folder / LEDGER_NAME
        self._signer = signer
        self._entries = entries
        self._story = story

    @classmethod
    def of(cls, folder: Path) -> "LedgerWriter":
        """The ledger in `folder`, to go on with; an empty one, with a fresh key, where there is none.

        A last line without its newline was never acknowledged: it is finished where it is whole but for that, for it
        may charge somebody, and cut off where it is torn. Both are logged. Raises LedgerBroken where another byte is
        wrong, or the key is gone or another's.
        """
        path = folder / LEDGER_NAME
        if not path.exists():
            return cls(folder, Signer.of(folder), [], Story())
        _mend(path)
        entries, story = read_entries(path.read_bytes(), path)
        if entries and not (folder / KEY_NAME).exists():
            raise LedgerBroken(f"{folder / KEY_NAME} is missing, and nothing can be added to the ledger without it")
        signer = Signer.of(folder)
        if story.opened and story.opened.public_key != signer.public_key:
            raise LedgerBroken(f"{folder / KEY_NAME} is not the key of the ledger beside it; restore it from a copy")
        return cls(folder, signer, entries, story)

    @property
    def public_key(self) -> str:
        """64 hex digits."""
        return self._signer.public_key

    @property
    def story(self) -> Story:
        """What has happened so far; to be read."""
        return self._story

    @property
    def entries(self) -> tuple[Entry, ...]:
        """All of them."""
        return tuple(self._entries)

    def append(self, body: Body) -> Entry:
        """Add an entry; raises LedgerBroken where it cannot come next, RunError where the disk does not take it."""
        last = self._entries[-1] if self._entries else None
        seq, prev = (last.seq + 1, last.hash) if last else (0, GENESIS)
        line = make_line(seq, prev, body, datetime.now(UTC).isoformat(timespec="milliseconds"), self._signer)
        entry = read_line(line[:-1])
        self._story.check(entry)
        with storage_errors(self.path):
            append_durably(self.path, line)
        self._story.take(entry)
        self._entries.append(entry)
        return entry

    def offer(self, since: int) -> Offer:
        """The head with the links behind entry `since`; -1 for all of them."""
        last = self._entries[-1]
        since = min(since, last.seq)
        links = tuple(entry.content for entry in self._entries[since + 1 :])
        return Offer(head=last.head(self.public_key), since=since, links=links)


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
