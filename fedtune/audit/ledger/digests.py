"""What is hashed and signed of an entry, byte for byte.

    content = SHA-256("fedtune ledger content 1\\n" ‖ canonical {"body", "kind", "seq", "time"}), where "body" is the
              SHA-256 of the canonical body in hex
    hash    = SHA-256("fedtune ledger entry 1\\n" ‖ hash of the entry before ‖ content)
    signed  = "fedtune ledger head 1\\n" ‖ seq as 8 bytes, big-endian ‖ hash

So a hash is bound to (seq, prev, kind, body, time), and who holds an earlier hash needs 32 bytes an entry, and nothing
of what the entries say, to see that a later one continues it.
"""

import hashlib
from typing import Any

from fedtune.audit.ledger.canonical import encode

GENESIS = bytes(32)
"""The hash before the first entry's."""


def content_of(seq: int, kind: str, body: Any, time: str) -> bytes:
    """32 bytes over all that an entry says; raises ValueError where the body is no JSON value."""
    said = {"body": hashlib.sha256(encode(body)).hexdigest(), "kind": kind, "seq": seq, "time": time}
    return hashlib.sha256(b"fedtune ledger content 1\n" + encode(said)).digest()


def link(prev: bytes, content: bytes) -> bytes:
    """The hash of the entry that follows `prev` and says `content`; all of 32 bytes."""
    return hashlib.sha256(b"fedtune ledger entry 1\n" + prev + content).digest()


def to_sign(seq: int, hash_: bytes) -> bytes:
    """What an entry's signature is over."""
    return b"fedtune ledger head 1\n" + seq.to_bytes(8, "big") + hash_
