"""Who was asked in the rounds so far, the aborted ones included, as the ledger and the file beside it tell."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from fedtune.audit.ledger import read_ledger
from fedtune.audit.ledger.draws import check_draws, open_draws
from fedtune.audit.ledger.pseudonym import RunSecret
from fedtune.errors import LedgerBroken


@dataclass(frozen=True, slots=True)
class Past:
    """What turns depend on."""

    drawn: Sequence[Sequence[str]] = ()
    """Who was asked, row after row, by what `known_as` makes of their names."""
    known_as: Callable[[str], str] = str


def read_past(folder: Path) -> Past:
    """The past of the run in `folder`.

    Raises LedgerBroken where ledger or draws are damaged, or where a training round was reserved without its draw, for
    then nobody could say whose turn it is.
    """
    ledger = read_ledger(folder)
    rounds = [body for body in ledger.reservations() if body.what == "train"]
    if any(body.drawn is None or len(body.drawn.commitments) != 1 for body in rounds):
        raise LedgerBroken(f"a training round in {ledger.path} was reserved without its draw; start the run anew")
    openings = check_draws(ledger, open_draws(folder))
    return Past([opening.drawn for opening in openings], RunSecret.of(folder).pseudonym)
