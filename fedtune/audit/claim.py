"""What a plan claims, as an attack can test it: its whole privacy curve, computed apart from the project's accounts."""

from collections.abc import Iterable

import numpy as np
from dp_accounting.pld import privacy_loss_distribution

from fedtune.audit.estimators.tradeoff import Tradeoff, from_profile
from fedtune.errors import PrivacyError
from fedtune.privacy.events import Event, grouped

INTERVAL = 1e-3
"""Of the discretised privacy loss; pessimistic, so the claim is tested a little weaker than it is."""
EPSILONS = np.concatenate([np.linspace(0, 4, 81), np.linspace(4.25, 20, 64), np.linspace(21, 60, 40)])
"""Where the curve is sampled: `from_profile` is below the plan's own between them."""


def tradeoff_of(events: Iterable[Event]) -> Tradeoff:
    """The trade-off curve of events that are composed.

    Guarantees: nowhere above the mechanism's own curve, so what is refuted is refuted rightly. Raises PrivacyError
    without events, which claim perfect privacy.
    """
    composed = None
    for event in grouped(events):
        one = privacy_loss_distribution.from_gaussian_mechanism(
            standard_deviation=event.noise_multiplier,
            sampling_prob=event.sampling_rate,
            value_discretization_interval=INTERVAL,
            pessimistic_estimate=True,
        ).self_compose(event.count)
        composed = one if composed is None else composed.compose(one)
    if composed is None:
        raise PrivacyError("a plan without events releases nothing: there is no claim to test")
    deltas = np.asarray(composed.get_delta_for_epsilon(EPSILONS), dtype=np.float64)
    return from_profile(zip(EPSILONS.tolist(), deltas.tolist(), strict=True))
