"""The privacy ledger in a task: its head in the header, its links as one tensor of bytes."""

from collections.abc import Mapping

import torch

from fedtune.audit.ledger.head import MAX_LINKS, Offer
from fedtune.errors import MalformedMessage
from fedtune.wire.headers import LedgerHeader

LINKS = "ledger/links"
_BYTES = 32


def ledger_header(offer: Offer | None) -> LedgerHeader | None:
    """What the header says of an offer; None where there is none."""
    return None if offer is None else LedgerHeader(head=offer.head, since=offer.since)


def ledger_tensors(offer: Offer | None) -> dict[str, torch.Tensor]:
    """The links, uint8 [links, 32]; nothing where there are none."""
    if offer is None or not offer.links:
        return {}
    return {LINKS: torch.frombuffer(bytearray(b"".join(offer.links)), dtype=torch.uint8).reshape(-1, _BYTES)}


def read_offer(header: LedgerHeader | None, tensors: Mapping[str, torch.Tensor]) -> Offer | None:
    """The offer again; raises MalformedMessage where the links are none, or more than there may be."""
    links = tensors.get(LINKS)
    if header is None:
        return None
    if links is None:
        return Offer(head=header.head, since=header.since)
    if links.dtype != torch.uint8 or links.ndim != 2 or links.shape[1] != _BYTES or not 0 < len(links) <= MAX_LINKS:
        raise MalformedMessage("the task message holds links of a ledger that cannot be")
    raw = links.numpy().tobytes()
    parts = tuple(raw[place : place + _BYTES] for place in range(0, len(raw), _BYTES))
    return Offer(head=header.head, since=header.since, links=parts)
