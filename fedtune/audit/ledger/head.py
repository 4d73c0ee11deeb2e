"""A ledger's head, and what a coordinator sends of its ledger so that a client can follow it."""

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, StringConstraints

Hex64 = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]
Hex128 = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{128}$")]
Seq = Annotated[int, Field(ge=0, le=2**53)]
MAX_LINKS = 1 << 22
"""The most links in one message: 128 MiB."""


class Head(BaseModel):
    """One entry of a ledger, as far as who keeps it needs to know it: the ledger up to there can no longer change."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    public_key: Hex64
    seq: Seq
    hash: Hex64
    signature: Hex128
    """Ed25519, over `digests.to_sign(seq, hash)`."""


class Offer(BaseModel):
    """A head, and the contents of the entries that lead to it."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    head: Head
    since: Annotated[int, Field(ge=-1, le=2**53)]
    """The entry before the first link's; -1 where the links begin with the ledger."""
    links: Annotated[tuple[bytes, ...], Field(max_length=MAX_LINKS)] = ()
    """`digests.content_of` entries `since + 1` to `head.seq`, 32 bytes each."""
