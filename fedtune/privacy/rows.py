"""Which rows are in a step: an independent coin for each, from random bits that nobody can foresee."""

from fractions import Fraction
from typing import Protocol

from fedtune.errors import PrivacyError
from fedtune.privacy.keystream import BITS, Keystream


class RowSampler(Protocol):
    """Where a step's rows come from: coins in a run, rows of a test's choice in a test."""

    def draw(self, count: int, rate: float) -> list[int]:
        """Those of `count` rows that are in the next step, each with probability `rate`, ascending; maybe none."""
        ...


class PoissonRows:
    """Poisson sampling from a cryptographic generator.

    Guarantees: each row is in independently of all others and of every draw before, with a probability of `rate`
    rounded down to a multiple of 2⁻⁵³, so never more often than is accounted for; one row more changes nothing for the
    others but their number. No seed of a recipe has a say.
    """

    def __init__(self) -> None:
        self._stream = Keystream()

    def draw(self, count: int, rate: float) -> list[int]:
        """The rows of one step, ascending; raises PrivacyError where `rate` is no probability."""
        if not 0 <= rate <= 1:
            raise PrivacyError(f"the sampling rate must be between 0 and 1, got {rate:g}")
        below = int(Fraction(rate) * 2**BITS)
        rows: list[int] = (self._stream.integers(count) < below).nonzero().flatten().tolist()
        return rows
