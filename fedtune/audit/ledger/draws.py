"""The samples that a coordinator drew: committed to in the ledger, written down in a file that it keeps to itself."""

import hashlib
import secrets
from collections.abc import Iterable
from pathlib import Path

from pydantic import BaseModel, ConfigDict, ValidationError

from fedtune.audit.ledger.bodies import Pseudonym, ReserveBody
from fedtune.audit.ledger.canonical import encode
from fedtune.audit.ledger.head import Hex64
from fedtune.audit.ledger.read import Ledger
from fedtune.errors import LedgerBroken
from fedtune.runs.atomic import append_durably, storage_errors

DRAWS_NAME = "ledger.draws"


class Opening(BaseModel):
    """What opens one commitment."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    round: int
    nonce: Hex64
    drawn: tuple[Pseudonym, ...]

    def commitment(self) -> str:
        """SHA-256 over round, nonce and sample: binding, and without the 256 bits of the nonce it says nothing."""
        said = {"round": self.round, "nonce": self.nonce, "drawn": list(self.drawn)}
        return hashlib.sha256(b"fedtune ledger draw 1\n" + encode(said)).hexdigest()


def commit(folder: Path, round_: int, drawn: Iterable[str]) -> str:
    """Write down the sample of a round by pseudonyms, durably, and return the commitment to it."""
    opening = Opening(round=round_, nonce=secrets.token_hex(32), drawn=tuple(sorted(drawn)))
    path = folder / DRAWS_NAME
    with storage_errors(path):
        append_durably(path, opening.model_dump_json().encode() + b"\n", private=True)
    return opening.commitment()


def open_draws(folder: Path) -> dict[str, Opening]:
    """The samples of a run folder by their commitments; raises LedgerBroken where the file is damaged.

    One that no ledger names was drawn just before a crash, and never used.
    """
    path = folder / DRAWS_NAME
    try:
        # A torn last line was never committed to.
        lines = path.read_bytes().split(b"\n")[:-1]
        found = [Opening.model_validate_json(line) for line in lines if line]
    except FileNotFoundError:
        return {}
    except (OSError, ValidationError) as error:
        raise LedgerBroken(f"{path} is damaged; restore it from a copy") from error
    return {opening.commitment(): opening for opening in found}


def check_draws(ledger: Ledger, openings: dict[str, Opening]) -> list[Opening]:
    """The samples that the ledger commits to, in order; raises LedgerBroken where one is not among `openings`."""
    found: list[Opening] = []
    for entry in ledger.entries:
        body = entry.body
        drawn = body.drawn if isinstance(body, ReserveBody) else None
        for commitment in drawn.commitments if drawn else ():
            opening = openings.get(commitment)
            if opening is None or not isinstance(body, ReserveBody) or opening.round != body.round:
                raise LedgerBroken(f"entry {entry.seq} commits to a sample that {DRAWS_NAME} does not hold")
            found.append(opening)
    return found
