"""One entry of a ledger and its line: made and signed, or read and checked."""

import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from fedtune.audit.ledger.bodies import BODIES, KINDS, Body, Kind
from fedtune.audit.ledger.canonical import decode, encode
from fedtune.audit.ledger.digests import content_of, link, to_sign
from fedtune.audit.ledger.head import Head
from fedtune.audit.ledger.signing import Signer
from fedtune.errors import LedgerBroken

_FIELDS = {"seq", "prev", "kind", "body", "time", "hash", "signature"}
_TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}\+00:00")


@dataclass(frozen=True, slots=True)
class Entry:
    """An entry whose hash is that of what it says."""

    seq: int
    prev: bytes
    kind: Kind
    body: Body
    time: str
    """UTC, ISO 8601, milliseconds; the coordinator's clock, which nothing checks."""
    content: bytes
    hash: bytes
    signature: str

    def head(self, public_key: str) -> Head:
        """The ledger's head where this is its last entry."""
        return Head(public_key=public_key, seq=self.seq, hash=self.hash.hex(), signature=self.signature)


def make_line(seq: int, prev: bytes, body: Body, time: str, signer: Signer) -> bytes:
    """The line of a new entry, newline included; raises LedgerBroken where the body cannot be written."""
    kind = KINDS[type(body)]
    values = body.model_dump(mode="json")
    try:
        hash_ = link(prev, content_of(seq, kind, values, time))
        return (
            encode(
                {
                    "seq": seq,
                    "prev": prev.hex(),
                    "kind": kind,
                    "body": values,
                    "time": time,
                    "hash": hash_.hex(),
                    "signature": signer.sign(to_sign(seq, hash_)),
                }
            )
            + b"\n"
        )
    except ValueError as error:
        raise LedgerBroken(f"what the ledger should hold cannot be written: {error}") from error


def read_line(raw: bytes) -> Entry:
    """The entry in a line without its newline; raises LedgerBroken where a byte of it is not as `make_line` wrote it.

    Whether the signature is the ledger's own, and the entry in its place, the reader of the whole ledger checks.
    """
    values = _values(raw)
    if not isinstance(values, dict) or set(values) != _FIELDS or values["kind"] not in BODIES:
        raise LedgerBroken("it is no ledger entry")
    seq, time, kind = values["seq"], values["time"], values["kind"]
    if type(seq) is not int or not isinstance(time, str) or not _TIME.fullmatch(time):
        raise LedgerBroken("it has no number or no time")
    prev, hash_ = _digest(values["prev"]), _digest(values["hash"])
    content = content_of(seq, kind, values["body"], time)
    if link(prev, content) != hash_:
        raise LedgerBroken("its hash is not that of what it says")
    if not isinstance(values["signature"], str) or not re.fullmatch("[0-9a-f]{128}", values["signature"]):
        raise LedgerBroken("it has no signature")
    return Entry(seq, prev, kind, _body(kind, values["body"]), time, content, hash_, values["signature"])


def leaves_of(reserve: Entry, outcomes: Mapping[str, str]) -> list[bytes]:
    """The leaves of a round's Merkle tree: the reservation's hash, and each participant's outcome, sorted.

    So a participant can be shown its own outcome and a path, and nothing of the others.
    """
    return [reserve.hash, *(encode([name, outcomes[name]]) for name in sorted(outcomes))]


def folder_digest(folder: Path) -> str:
    """SHA-256 over the files of a folder, by name and content: what a released adapter is known by."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    sums = {path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}
    return hashlib.sha256(encode(sums)).hexdigest()


def _values(raw: bytes) -> Any:
    try:
        return decode(raw)
    except ValueError as error:
        reason = str(error) if str(error).startswith("it ") else "it is no JSON"
        raise LedgerBroken(reason) from error


def _digest(value: Any) -> bytes:
    if not isinstance(value, str) or not re.fullmatch("[0-9a-f]{64}", value):
        raise LedgerBroken("it has no hash, or names none before it")
    return bytes.fromhex(value)


def _body(kind: Kind, values: Any) -> Body:
    try:
        return BODIES[kind].model_validate(values)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"])) or "body"
        raise LedgerBroken(f"it says nothing that this version of fedtune knows ({where}: {first['msg']})") from error
