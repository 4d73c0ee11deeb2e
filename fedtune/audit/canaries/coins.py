"""The coins that put canaries in: fair, independent, and from the operating system."""

import secrets
from collections.abc import Iterable


def toss(names: Iterable[str]) -> dict[str, bool]:
    """One fair coin a canary; no seed can repeat them, so that nothing but the mechanism can tell them."""
    return {name: bool(secrets.randbits(1)) for name in names}


def canary_names(count: int) -> tuple[str, ...]:
    """`canary-0000` …; a client may be called so."""
    return tuple(f"canary-{position:04d}" for position in range(count))
