"""The coordinator's own budget for a run: what may still be spent of `privacy.epsilon`."""

from collections.abc import Sequence

from fedtune.privacy.events import Event, Purpose, grouped
from fedtune.privacy.plan import MARGIN, Plan

_Key = tuple[float, float, Purpose]


class Budget:
    """Says whether more may be spent.

    Guarantees: where `epsilon` is given, nothing is allowed after which the accountant's ε, at the plan's δ, of all
    that a participant has spent would be above it.
    """

    def __init__(self, plan: Plan, epsilon: float | None) -> None:
        self._epsilon = epsilon
        self._delta = plan.delta
        self._planned = _counts(plan.planned())
        self._known: dict[tuple[Event, ...], bool] = {}

    def allows(self, spent: Sequence[Event], more: Sequence[Event]) -> bool:
        """May `more` be spent after `spent`?"""
        total = grouped((*spent, *more))
        # The noise was calibrated, or checked, for all that is planned, and a part of it costs no more: only what
        # crashes made a run repeat has to be accounted anew.
        if self._epsilon is None or self._is_planned(total):
            return True
        if total not in self._known:
            from fedtune.privacy.accounting import epsilon_of

            self._known[total] = epsilon_of(total, self._delta) <= self._epsilon * (1 + MARGIN)
        return self._known[total]

    def _is_planned(self, total: Sequence[Event]) -> bool:
        return all(count <= self._planned.get(key, 0) for key, count in _counts(total).items())


def _counts(events: Sequence[Event]) -> dict[_Key, int]:
    return {(e.noise_multiplier, e.sampling_rate, e.purpose): e.count for e in grouped(events)}
