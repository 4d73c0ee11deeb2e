"""How a report says figures: ε, δ, shares, events and units, the same in every sentence and table."""

import math
from collections.abc import Sequence

from fedtune.privacy.events import Event
from fedtune.privacy.plan import Plan

ROUNDING = 1e-9
"""What is taken off, relatively, before a bound is rounded up: 0.1 + 0.2 is not to become 0.31."""

LEAST = 1e-12
"""Smaller shares are said to be this."""

RELATIONS = {
    "add-or-remove-one": "added or removed",
    "replace-one": "replaced by any other",
}

MECHANISMS = {
    "poisson-rows": "DP-SGD on each participant: rows are drawn at random, every row's gradient is clipped, and noise "
    "is added to each step before anything is sent",
    "poisson-clients": "Participants are drawn at random; the coordinator clips each whole update and adds noise to "
    "their sum",
    "separated": "The coordinator clips each whole update and adds noise that is correlated over rounds; nobody takes "
    "part twice within the separation",
    "none": "Each participant clips its whole update and adds all of the noise before it is sent",
}
"""By the plan's sampler."""

ACCOUNTANTS = {"dp-accounting": "PLD by dp-accounting", "rdp": "Rényi by dp-accounting", "prv": "PRV by Opacus"}
"""Those whose ε stands beside the answer."""


def epsilon_text(epsilon: float | None) -> str:
    """Two decimals, rounded up, so that what is said is never less than what holds; `unbounded` for None."""
    return "unbounded" if epsilon is None else f"{math.ceil(epsilon * 100 * (1 - ROUNDING)) / 100:.2f}"


def delta_text(delta: float) -> str:
    """`1e-5`, `2.5e-6`."""
    mantissa, _, exponent = f"{delta:.2e}".partition("e")
    return f"{mantissa.rstrip('0').rstrip('.')}e{int(exponent)}"


def share_text(share: float) -> str:
    """`2 %`, `14.8 %`, `0.12 %`: three digits of a share that is exact."""
    return f"{share * 100:.3g} %"


def bound_text(share: float) -> str:
    """As `share_text`, rounded up, so that a bound is never said to be less than it is."""
    if share <= 0:
        return "0 %"
    share = max(share, LEAST)
    unit = 10.0 ** (math.floor(math.log10(share)) - 2)
    return share_text(min(1.0, math.ceil(share / unit * (1 - ROUNDING)) * unit))


def unit_text(plan: Plan) -> str:
    """What is hidden."""
    return "one row of one participant" if plan.unit == "example" else "one participant with all its rows"


def relation_text(plan: Plan) -> str:
    """The neighbouring relation, as what may differ."""
    return f"{unit_text(plan)}, {RELATIONS[plan.relation]}"


def event_text(event: Event) -> str:
    """One kind of event in a line."""
    sampled = f" on a random {share_text(event.sampling_rate)}" if event.sampling_rate < 1 else ""
    return f"{event.count:,} × Gaussian, noise {event.noise_multiplier:.4g} × sensitivity{sampled} ({event.purpose})"


def events_text(events: Sequence[Event]) -> str:
    """Several, or `nothing`."""
    return "; ".join(event_text(event) for event in events) or "nothing"


def count_text(count: int, noun: str) -> str:
    """`1 round`, `30 rounds`, `no round`."""
    return f"no {noun}" if count == 0 else f"{count:,} {noun}{'' if count == 1 else 's'}"
