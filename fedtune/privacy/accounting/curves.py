"""The (ε, δ) curve as two tables: one pair of numbers says less than it seems to."""

from collections.abc import Sequence
from dataclasses import dataclass

from fedtune.privacy.accounting.composition import compose
from fedtune.privacy.accounting.loss import Loss
from fedtune.privacy.events import Event

DELTAS = tuple(10.0**-power for power in range(3, 13))
EPSILONS = (0.0, 0.1, 0.25, 0.5, 1.0, 2.0, 3.0, 4.0, 6.0, 8.0, 10.0)


@dataclass(frozen=True, slots=True)
class Curve:
    """Pairs (ε, δ) that all hold at once: first one for each asked δ, then one for each asked ε."""

    by_delta: tuple[tuple[float, float], ...]
    by_epsilon: tuple[tuple[float, float], ...]


def curve(events: Sequence[Event], deltas: Sequence[float] = DELTAS, epsilons: Sequence[float] = EPSILONS) -> Curve:
    """ε at each δ and δ at each ε of all events together; PrivacyError for a δ outside (0, 1) or an ε below 0."""
    return curve_of(compose(events), deltas, epsilons)


def curve_of(loss: Loss, deltas: Sequence[float] = DELTAS, epsilons: Sequence[float] = EPSILONS) -> Curve:
    """`curve` of what is already composed."""
    return Curve(
        tuple((loss.epsilon(delta), delta) for delta in deltas),
        tuple((epsilon, loss.delta(epsilon)) for epsilon in epsilons),
    )
