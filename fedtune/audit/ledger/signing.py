"""Ed25519: the key pair of one run's ledger, and the check of a signature."""

from pathlib import Path

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from fedtune.errors import LedgerBroken
from fedtune.runs.atomic import write_atomically

KEY_NAME, PUBLIC_NAME = "ledger.key", "ledger.pub"


class Signer:
    """The private key of a ledger."""

    def __init__(self, key: Ed25519PrivateKey) -> None:
        self._key = key
        self.public_key = key.public_key().public_bytes_raw().hex()
        """64 hex digits."""

    @classmethod
    def of(cls, folder: Path) -> "Signer":
        """The key in `folder`; made, PEM, for its owner alone, where there is none.

        Raises LedgerBroken where the file holds no Ed25519 key, RunError where it cannot be written.
        """
        path = folder / KEY_NAME
        if not path.exists():
            write_atomically(path, _private_pem(Ed25519PrivateKey.generate()), private=True)
        signer = cls(_read_private(path))
        public = folder / PUBLIC_NAME
        content = public_pem(signer.public_key)
        if not public.is_file() or public.read_bytes() != content:
            write_atomically(public, content)
        return signer

    def sign(self, data: bytes) -> str:
        """The signature, 128 hex digits."""
        return self._key.sign(data).hex()


def is_signed(public_key: str, signature: str, data: bytes) -> bool:
    """Did the holder of `public_key` sign `data`? Both in hex; what is no key or no signature signs nothing."""
    try:
        Ed25519PublicKey.from_public_bytes(bytes.fromhex(public_key)).verify(bytes.fromhex(signature), data)
    except (InvalidSignature, ValueError):
        return False
    return True


def public_pem(public_key: str) -> bytes:
    """A public key as it lies beside the ledger."""
    key = Ed25519PublicKey.from_public_bytes(bytes.fromhex(public_key))
    return key.public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)


def read_public_key(path: Path) -> str:
    """A PEM public key as 64 hex digits; raises LedgerBroken where the file holds none."""
    try:
        key = serialization.load_pem_public_key(path.read_bytes())
    except (OSError, ValueError, UnsupportedAlgorithm) as error:
        raise LedgerBroken(f"{path} holds no public key; name the {PUBLIC_NAME} that you were given") from error
    if not isinstance(key, Ed25519PublicKey):
        raise LedgerBroken(f"{path} holds no Ed25519 key; name the {PUBLIC_NAME} that you were given")
    return key.public_bytes_raw().hex()


def _private_pem(key: Ed25519PrivateKey) -> bytes:
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )


def _read_private(path: Path) -> Ed25519PrivateKey:
    try:
        key = serialization.load_pem_private_key(path.read_bytes(), password=None)
    except (OSError, ValueError, TypeError, UnsupportedAlgorithm) as error:
        raise LedgerBroken(f"{path} holds no readable private key; restore it from a copy") from error
    if not isinstance(key, Ed25519PrivateKey):
        raise LedgerBroken(f"{path} holds no Ed25519 key; restore it from a copy")
    return key
