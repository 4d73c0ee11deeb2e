"""What a client does with a coordinator's ledger: keep the last head, and refuse one that does not continue it."""

from fedtune.audit.ledger.digests import GENESIS, link, to_sign
from fedtune.audit.ledger.head import Head, Offer
from fedtune.audit.ledger.signing import is_signed
from fedtune.errors import LedgerBroken


def follow(stored: Head | None, offered: Offer) -> Head:
    """The head to keep from now on for this run, where `offered` continues `stored` (None at the first contact).

    Guarantees: as long as SHA-256 holds, two heads that follow each other are of one ledger, of which nothing up to the
    first was changed, dropped or added; so clients that compare heads see one history. What is *not* seen: entries that
    no head was ever offered for, and another history that is shown to another client which never compares.

    Raises LedgerBroken for another key, a signature that does not fit, a rollback, a fork, and links that leave a gap.
    """
    head = offered.head
    if not is_signed(head.public_key, head.signature, to_sign(head.seq, bytes.fromhex(head.hash))):
        raise LedgerBroken("the head of the coordinator's ledger is not signed by the key that it names")
    if len(offered.links) != head.seq - offered.since or any(len(content) != 32 for content in offered.links):
        raise LedgerBroken("the links of the coordinator's ledger do not reach from where they begin to its head")
    if stored is None:
        if offered.since == -1:
            _check_leads(GENESIS, offered, -1)
        return head
    if head.public_key != stored.public_key:
        raise LedgerBroken("the coordinator's ledger is signed by another key than before: it is not the same ledger")
    if head.seq < stored.seq:
        raise LedgerBroken(
            f"the coordinator's ledger was rolled back: it ends with entry {head.seq}, and entry {stored.seq} was there"
        )
    if offered.since > stored.seq:
        raise LedgerBroken(
            f"the coordinator does not show how its ledger goes on after entry {stored.seq}, the last one known here"
        )
    _check_leads(bytes.fromhex(stored.hash), offered, stored.seq)
    return head


def _check_leads(known: bytes, offered: Offer, seq: int) -> None:
    for content in offered.links[seq - offered.since :]:
        known = link(known, content)
    if known.hex() != offered.head.hash:
        raise LedgerBroken(
            f"the coordinator's ledger was forked: what it shows does not follow from entry {seq}"
            if seq >= 0
            else "the links of the coordinator's ledger do not lead to its head"
        )
