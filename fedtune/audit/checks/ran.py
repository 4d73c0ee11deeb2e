"""Does what ran fit what was planned: the same mechanisms, no more often, and nothing private beside them?"""

from collections.abc import Iterable

from fedtune.audit.checks.finding import Finding
from fedtune.privacy.events import Event, grouped
from fedtune.privacy.plan import Plan
from fedtune.recipe.adapter import Initialisation

PAID: frozenset[Initialisation] = frozenset({"dp-gradient"})
"""Initialisations that read private rows and spend budget on it."""
UNPAID: frozenset[Initialisation] = frozenset({"private-gradient"})
"""Initialisations that read private rows and spend nothing: no ε covers what they release."""


def check_events(ran: Iterable[Event], plan: Plan) -> Finding:
    """Every mechanism that ran is planned, with its noise and its rate, and ran no more often."""
    planned = {_kind(event): event.count for event in plan.planned()}
    exceptions = []
    for event in grouped(ran):
        allowed = planned.get(_kind(event), 0)
        what = f"{event.purpose} with noise {event.noise_multiplier:.4g} at rate {event.sampling_rate:.4g}"
        if not allowed:
            exceptions.append(f"{what} is in no plan")
        elif event.count > allowed:
            exceptions.append(f"{what} ran {event.count} times and {allowed} are planned")
    return Finding("events", not exceptions, "; ".join(exceptions) or "all that ran was planned")


def check_start(init: Initialisation, plan: Plan) -> Finding:
    """The adapter's start reads no private row, or pays for it."""
    paid = any(event.purpose == "init" for event in plan.start_events)
    if init in UNPAID:
        found = f'adapter.init = "{init}" reads private rows before any noise: no ε of this run covers it'
        return Finding("start", False, found)
    if init in PAID and not paid:
        return Finding("start", False, f'adapter.init = "{init}" reads private rows and no event pays for it')
    return Finding("start", True, "paid from the budget" if paid else "reads no private row")


def _kind(event: Event) -> tuple[float, float, str]:
    return event.noise_multiplier, event.sampling_rate, event.purpose
