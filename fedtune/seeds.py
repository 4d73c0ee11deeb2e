"""Every random number of a run comes from (run seed, purpose, round, client): one function derives them all.

Two runs of one recipe draw the same numbers, whatever the order in which clients are worked on, the number
of workers or the machine. None of these seeds may feed privacy noise: whoever knows the recipe can repeat them.
"""

import hashlib

import torch


def derive_seed(run_seed: int, purpose: str, *, round_: int = 0, client: str = "") -> int:
    """A 63-bit seed for one purpose of one client in one round.

    Distinct arguments give independent seeds: the four parts are length-prefixed and hashed with SHA-256.
    """
    parts = (str(run_seed), purpose, str(round_), client)
    hasher = hashlib.sha256()
    for part in parts:
        raw = part.encode()
        hasher.update(len(raw).to_bytes(4, "big") + raw)
    return int.from_bytes(hasher.digest()[:8], "big") >> 1


def generator(run_seed: int, purpose: str, *, round_: int = 0, client: str = "") -> torch.Generator:
    """A CPU generator seeded by `derive_seed`; CPU, so that the draw does not depend on the device."""
    return torch.Generator().manual_seed(derive_seed(run_seed, purpose, round_=round_, client=client))
