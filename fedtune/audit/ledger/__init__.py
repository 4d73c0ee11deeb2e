"""The ledger: what a run spent of whose privacy, append-only, hash-chained, signed, written before it is spent."""

from fedtune.audit.ledger.bodies import AbortBody, CloseBody, CommitBody, Drawn, OpenBody, ReserveBody
from fedtune.audit.ledger.entry import Entry, folder_digest
from fedtune.audit.ledger.follow import follow
from fedtune.audit.ledger.head import Head, Offer
from fedtune.audit.ledger.merkle import check_proof, prove, root
from fedtune.audit.ledger.read import LEDGER_NAME, Ledger, read_ledger, spent
from fedtune.audit.ledger.tally import Tally
from fedtune.audit.ledger.verify import Verdict, verify
from fedtune.audit.ledger.write import LedgerWriter

__all__ = [
    "LEDGER_NAME",
    "AbortBody",
    "CloseBody",
    "CommitBody",
    "Drawn",
    "Entry",
    "Head",
    "Ledger",
    "LedgerWriter",
    "Offer",
    "OpenBody",
    "ReserveBody",
    "Tally",
    "Verdict",
    "check_proof",
    "folder_digest",
    "follow",
    "prove",
    "read_ledger",
    "root",
    "spent",
    "verify",
]
