"""Canary scores joined with the coins that put the canaries in, by name: an audit cannot silently misalign."""

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fedtune.errors import PrivacyError

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class Scores:
    """The scores of M canaries, in the order of their names; a higher one speaks for having been inserted."""

    names: tuple[str, ...]
    values: Floats
    """(M,)."""
    inserted: Bools
    """(M,): how the canary's coin fell."""

    @classmethod
    def join(cls, scores: Mapping[str, float], coins: Mapping[str, bool]) -> "Scores":
        """Join by name; raises PrivacyError where a name lacks its score or its coin, or a score is NaN."""
        if scores.keys() != coins.keys():
            odd = sorted(scores.keys() ^ coins.keys())
            raise PrivacyError(
                f"scores and coins name different canaries ({odd[0]!r} is one of {len(odd)}): score each once"
            )
        if not scores:
            raise PrivacyError("an audit needs canaries, and there are none")
        names = tuple(sorted(scores))
        if bad := [name for name in names if math.isnan(scores[name])]:
            raise PrivacyError(f"the score of canary {bad[0]!r} is not a number: an audit without it would be biased")
        values = np.array([scores[name] for name in names], dtype=np.float64)
        return cls(names, values, np.array([coins[name] for name in names], dtype=np.bool_))

    def __len__(self) -> int:
        return len(self.names)

    @property
    def of_inserted(self) -> Floats:
        """The scores of the canaries that were put in."""
        return self.values[self.inserted]

    @property
    def of_others(self) -> Floats:
        """The scores of the canaries that were left out."""
        return self.values[~self.inserted]

    def halves(self) -> tuple["Scores", "Scores"]:
        """Every other canary by name: one half to choose on, one to conclude from. Coins play no part in it."""
        return self._at(slice(0, None, 2)), self._at(slice(1, None, 2))

    def _at(self, which: slice) -> "Scores":
        return Scores(self.names[which], self.values[which], self.inserted[which])
