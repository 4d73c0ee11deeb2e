"""The largest ε that data speak against: a scan from zero up, so that no earlier one is skipped."""

from collections.abc import Callable

STEP, LARGEST, HALVINGS = 0.25, 50.0, 24
"""Width of the scan, where it ends, and how often the last step is halved (to 1.5e-8)."""


def largest_rejected(rejects: Callable[[float], bool]) -> float:
    """The end of the run of rejected values that begins at zero; 0.0 where zero itself stands.

    Guarantees: the result was itself rejected, or is zero; it is never rounded up.
    """
    low = 0.0
    if not rejects(low):
        return 0.0
    while low < LARGEST and rejects(low + STEP):
        low += STEP
    high = low + STEP
    for _ in range(HALVINGS):
        middle = (low + high) / 2
        low, high = (middle, high) if rejects(middle) else (low, middle)
    return low
