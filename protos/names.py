"""A client's name, and the stable Flower node id that follows from it."""

import hashlib
import re

from fedtune.errors import TransportError

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,62}\Z")


def check_name(name: str) -> str:
    """The name, if it can stand in a certificate, a folder and a file name.

    Raises:
        TransportError: unless it is 1 to 63 letters, digits, '.', '-' or '_', and begins with a letter or digit.
    """
    if not _NAME.match(name):
        raise TransportError(
            f"{name[:80]!r} is no client name: use 1 to 63 letters, digits, '.', '-' or '_', a letter or digit first"
        )
    return name


def node_id(name: str) -> int:
    """The node id of a client: 63 bits of SHA-256 of its name, the same in every run and never below 2."""
    return max(2, int.from_bytes(hashlib.sha256(b"fedtune-node\0" + name.encode()).digest()[:8], "big") >> 1)
