"""The order of a ledger's entries: open, then reserve and commit or abort, again and again, then close."""

from collections.abc import Callable
from typing import Any

from fedtune.audit.ledger.bodies import AbortBody, CloseBody, CommitBody, OpenBody, ReserveBody
from fedtune.audit.ledger.entry import Entry, leaves_of
from fedtune.audit.ledger.merkle import root
from fedtune.errors import LedgerBroken


class Story:
    """What has happened so far, as far as it settles what may come next.

    A round may be done again: a coordinator that is killed before its checkpoint knows nothing of the result, and
    spends anew.
    """

    def __init__(self) -> None:
        self.opened: OpenBody | None = None
        self.pending: Entry | None = None
        """The reservation that is open."""
        self.reached = 0
        """The last training round that was committed or aborted."""
        self.has_run = False
        """Is the release of the run as a whole paid?"""
        self.closed = False

    def check(self, entry: Entry) -> None:
        """Raise LedgerBroken where `entry` cannot come next."""
        if (self.opened is None) != (entry.kind == "open"):
            raise LedgerBroken("the ledger does not begin with `open`, or is opened twice")
        _CHECKS[entry.kind](self, entry.body)

    def take(self, entry: Entry) -> None:
        """The entry comes next; raises LedgerBroken where it cannot."""
        self.check(entry)
        body = entry.body
        self.closed = isinstance(body, CloseBody)
        if isinstance(body, OpenBody):
            self.opened = body
        elif isinstance(body, ReserveBody):
            self.pending = entry
        elif isinstance(body, CommitBody | AbortBody):
            self.pending = None
            self.reached = max(self.reached, body.round) if body.what == "train" else self.reached
            self.has_run = self.has_run or (body.what == "run" and isinstance(body, CommitBody))

    def reservation(self) -> tuple[Entry, ReserveBody]:
        """The open reservation; raises LedgerBroken where there is none."""
        if self.pending is None or not isinstance(self.pending.body, ReserveBody):
            raise LedgerBroken("it ends a reservation, and none is open")
        return self.pending, self.pending.body

    def _open(self, _: OpenBody) -> None:
        """Nothing more: it is the first."""

    def _reserve(self, body: ReserveBody) -> None:
        if self.pending is not None:
            raise LedgerBroken(f"it reserves before entry {self.pending.seq} is committed or aborted")
        first, last = _ROUNDS[body.what](self.reached)
        if not first <= body.round <= last:
            raise LedgerBroken(
                f"it reserves {body.what} for round {body.round}, which cannot follow round {self.reached}"
            )
        if body.what == "run" and self.has_run:
            raise LedgerBroken("it reserves the run as a whole a second time")

    def _commit(self, body: CommitBody) -> None:
        entry, reserved = self._matching(body)
        if reserved.participants and not set(body.outcomes) <= set(reserved.participants):
            raise LedgerBroken("it names an outcome of somebody who was not charged")
        self._check_root(entry, body.outcomes, body.root)

    def _abort(self, body: AbortBody) -> None:
        entry, _ = self._matching(body)
        self._check_root(entry, {}, body.root)

    def _close(self, body: CloseBody) -> None:
        if self.pending is not None:
            raise LedgerBroken(f"it closes the ledger while entry {self.pending.seq} is open")
        if body.rounds > self.reached:
            raise LedgerBroken(f"it counts {body.rounds} rounds, and round {self.reached} is the last")

    def _matching(self, body: CommitBody | AbortBody) -> tuple[Entry, ReserveBody]:
        entry, reserved = self.reservation()
        if (reserved.round, reserved.what) != (body.round, body.what):
            raise LedgerBroken(f"it ends another reservation than the open one, entry {entry.seq}")
        return entry, reserved

    def _check_root(self, entry: Entry, outcomes: dict[str, str], claimed: str) -> None:
        if root(leaves_of(entry, outcomes)).hex() != claimed:
            raise LedgerBroken("its Merkle root is not that of its round")


_CHECKS: dict[str, Callable[[Story, Any], None]] = {
    "open": Story._open,
    "reserve": Story._reserve,
    "commit": Story._commit,
    "abort": Story._abort,
    "close": Story._close,
}
_ROUNDS: dict[str, Callable[[int], tuple[int, int]]] = {
    "start": lambda _: (0, 0),
    "run": lambda _: (0, 0),
    "train": lambda reached: (1, reached + 1),
    "evaluate": lambda reached: (0, reached),
}
"""The rounds that each may be reserved for, by the last committed one."""
