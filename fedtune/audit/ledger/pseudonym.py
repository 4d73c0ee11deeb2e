"""Names that a ledger may show: the same client the same pseudonym within a run, and nothing beyond."""

import hmac
import secrets
from hashlib import sha256
from pathlib import Path

from fedtune.errors import LedgerBroken
from fedtune.runs.atomic import write_atomically

SECRET_NAME = "ledger.secret"  # noqa: S105 - a file's name
_BYTES = 32


class RunSecret:
    """32 random bytes of one run, in a file for its owner alone."""

    def __init__(self, secret: bytes) -> None:
        self._secret = secret

    @classmethod
    def of(cls, folder: Path) -> "RunSecret":
        """The secret in `folder`, made where there is none; raises LedgerBroken where it is damaged."""
        path = folder / SECRET_NAME
        if not path.exists():
            write_atomically(path, secrets.token_bytes(_BYTES).hex().encode() + b"\n", private=True)
        try:
            secret = bytes.fromhex(path.read_text(encoding="ascii").strip())
        except (OSError, ValueError) as error:
            raise LedgerBroken(f"{path} cannot be read; restore it from a copy") from error
        if len(secret) != _BYTES:
            raise LedgerBroken(f"{path} is damaged; restore it from a copy")
        return cls(secret)

    def pseudonym(self, client: str) -> str:
        """HMAC-SHA256 of the client's name, the first 32 hex digits: without the secret no name can be tried."""
        return hmac.new(self._secret, b"client\n" + client.encode(), sha256).hexdigest()[:32]
