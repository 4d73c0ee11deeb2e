"""What was written down while a mechanism ran in a test: noise, contributions and samples, release by release."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from fedtune.errors import PrivacyError

KEPT = 4096
"""Numbers of a release's noise that are looked at: enough for every test, and little memory."""


@dataclass(frozen=True, slots=True)
class Release:
    """One noised sum, before it is divided by anything.

    A recording holds what is secret in a run: it is made in tests and audited simulations alone, and never kept.
    """

    who: str
    """The client that made it, or `coordinator`."""
    noise: NDArray[np.float64]
    """(D,): what was added, in the units of the sum; `KEPT` numbers at most."""
    largest: float | None = None
    """The largest norm of what one unit put into the sum; None where it was not seen."""
    drawn: frozenset[int] | None = None
    """Which units were in the sample; None where it was not seen."""
    available: int = 0
    """How many could have been."""

    @classmethod
    def of(
        cls,
        who: str,
        released: ArrayLike,
        summed: ArrayLike,
        *,
        largest: float | None = None,
        drawn: frozenset[int] | None = None,
        available: int = 0,
    ) -> "Release":
        """From a release and the sum under it, flat and of one length; raises PrivacyError where they are not."""
        after, before = (np.asarray(values, dtype=np.float64).reshape(-1)[:KEPT] for values in (released, summed))
        if after.shape != before.shape:
            raise PrivacyError("a release and the sum under it must have as many numbers")
        return cls(who, after - before, largest, drawn, available)
