"""The signature of a report, by the key of the run's own ledger: whose report it is, and that nothing in it changed."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from fedtune.audit.ledger.canonical import encode
from fedtune.audit.ledger.signing import KEY_NAME, Signer, is_signed
from fedtune.errors import LedgerBroken

_PREFIX = b"fedtune audit report 1\n"
"""So that no signature of a report is one of a ledger's head."""


def sign(report: Mapping[str, Any], run: Path, public_key: str) -> dict[str, str] | None:
    """The signature to put into `report`, by the key in a run folder; None where the folder holds no key.

    Raises LedgerBroken where the key there is not the ledger's.
    """
    if not (run / KEY_NAME).is_file():
        return None
    signer = Signer.of(run)
    if signer.public_key != public_key:
        raise LedgerBroken(f"{run / KEY_NAME} is not the key of the ledger beside it; restore it from a copy")
    return {"algorithm": "Ed25519", "public_key": public_key, "value": signer.sign(_signed(report))}


def is_genuine(report: Mapping[str, Any]) -> bool:
    """Is the signature in `report` over all else that it says, by the key that it names?"""
    signature = report.get("signature")
    if not isinstance(signature, Mapping):
        return False
    key, value = signature.get("public_key"), signature.get("value")
    if not isinstance(key, str) or not isinstance(value, str):
        return False
    try:
        return is_signed(key, value, _signed(report))
    except ValueError:
        return False


def _signed(report: Mapping[str, Any]) -> bytes:
    return _PREFIX + encode({name: value for name, value in report.items() if name != "signature"})
