"""The heads of coordinators' ledgers that this machine has seen: what was shown once can no longer be taken back."""

import hashlib
from pathlib import Path

from filelock import FileLock, Timeout
from pydantic import ValidationError

from fedtune.audit.ledger.follow import follow
from fedtune.audit.ledger.head import Head, Offer
from fedtune.errors import PrivacyError
from fedtune.runs.atomic import write_atomically

_LOCK_WAIT_S = 60.0


class Heads:
    """One head by run and client: the last entry of the coordinator's ledger, and the key that signs it.

    Guarantees: a head is on the disk before the task that it came with is worked on; a ledger that does not continue
    the one that was shown before is refused (`fedtune.audit.ledger.follow`), also after this machine was started again.

    Args:
        folder: where heads are kept, in files for their owner alone; None keeps them in memory, for a simulation.
    """

    def __init__(self, folder: Path | None) -> None:
        self._folder = folder
        self._held: dict[tuple[str, str], Head] = {}

    def follow(self, run: str, client: str, offered: Offer) -> None:
        """Take in what the coordinator shows of its ledger.

        Raises LedgerBroken where it does not continue what was shown before, PrivacyError where that cannot be read.
        """
        if self._folder is None:
            self._held[run, client] = follow(self._held.get((run, client)), offered)
            return
        path = self.path_of(run, client)
        with _locked(path):
            stored = _read(path)
            head = follow(stored, offered)
            if head != stored:
                write_atomically(path, head.model_dump_json().encode() + b"\n", private=True)

    def path_of(self, run: str, client: str) -> Path:
        """The file of a run's head; its name says nothing, for a coordinator chooses what runs are called."""
        name = hashlib.sha256(f"{len(run)}:{run}{client}".encode()).hexdigest()[:32]
        return (self._folder or Path()) / f"{name}.json"


class PassingHeads(Heads):
    """For virtual clients that several processes answer for: no process has seen all that a client was shown.

    Each offer is looked at by itself; that one continues the other is not seen.
    """

    def __init__(self) -> None:
        super().__init__(None)

    def follow(self, run: str, client: str, offered: Offer) -> None:
        """Look at what the coordinator shows; raises LedgerBroken where it does not hold together."""
        follow(None, offered)


def _read(path: Path) -> Head | None:
    try:
        return Head.model_validate_json(path.read_bytes())
    except FileNotFoundError:
        return None
    except (OSError, ValidationError) as error:
        raise PrivacyError(
            f"{path} is damaged, which holds the last head of a coordinator's ledger: put its newest copy back, or, "
            "knowing that a rollback is then not seen, delete it"
        ) from error


def _locked(path: Path) -> FileLock:
    lock = FileLock(path.with_suffix(".lock"), timeout=_LOCK_WAIT_S, mode=0o600)
    try:
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        lock.acquire()
    except (OSError, Timeout) as error:
        raise PrivacyError(f"{path.parent}, where ledger heads are kept, cannot be used: {error}") from error
    return lock
