"""What an estimator says: a lower bound on ε that holds with a stated confidence, or an estimate that is no bound."""

from dataclasses import dataclass
from typing import Literal

from fedtune.errors import PrivacyError

Assumption = Literal["none", "independent scores", "gaussian"]
"""What a bound needs beside secret fair coins. `none`: it holds for any mechanism and any attack. `independent scores`:
each canary's score is a trial of its own, as with one canary a run. `gaussian`: the trade-off curve of the mechanism is
that of a Gaussian mechanism."""


@dataclass(frozen=True, slots=True)
class Bound:
    """A lower bound on ε.

    Guarantees: where `assumption` is met, a mechanism that is (ε', δ)-DP with ε' < `epsilon` comes out like this in at
    most 1 - `confidence` of all audits.
    """

    epsilon: float
    delta: float
    confidence: float
    method: str
    assumption: Assumption = "none"


@dataclass(frozen=True, slots=True)
class Estimate:
    """A figure for ε that a model of the scores gives; it may lie above the truth, and is never called a bound."""

    epsilon: float
    delta: float
    method: str
    model: str
    """What is taken for granted."""


def check_levels(*, confidence: float, delta: float) -> None:
    """Raise PrivacyError unless both are probabilities that leave something to say."""
    if not 0 < confidence < 1:
        raise PrivacyError(f"the confidence of an audit must be between 0 and 1, got {confidence}")
    if not 0 <= delta < 1:
        raise PrivacyError(f"delta must be at least 0 and below 1, got {delta}")
