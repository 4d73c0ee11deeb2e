"""The learning rate of each method: the best on rows that the clients hold out, with a seed that is not reported."""

import math
from collections.abc import Iterable

from fedtune.errors import RunError
from simulations.studies.outcome import Outcome
from simulations.studies.plan import Plan


def choose_rates(plan: Plan, outcomes: Iterable[Outcome]) -> dict[str, float]:
    """By contender, the rate whose tuning cell has the highest accuracy on held-out rows, then the lowest loss.

    A cell that failed never wins; a contender without rates has that of the one that it names. Raises RunError where
    every cell of a contender failed.
    """
    tuning = [outcome for outcome in outcomes if outcome.cell.stage == "tuning"]
    tuned = {name: contender.rate_of or name for name, contender in plan.contenders.items()}
    found = {name: _best(name, [o for o in tuning if o.cell.method == name]).cell.lr for name in set(tuned.values())}
    return {name: found[like] for name, like in tuned.items()}


def _best(method: str, tried: list[Outcome]) -> Outcome:
    sound = [outcome for outcome in tried if not outcome.failure]
    if not sound:
        why = tried[0].failure if tried else "none was tried"
        raise RunError(f"{method} learned at none of its learning rates: {why}")
    return max(sound, key=_validation_score)


def _validation_score(outcome: Outcome) -> tuple[float, float]:
    loss = outcome.local_loss
    return outcome.local_accuracy or 0.0, -loss if loss is not None and math.isfinite(loss) else -math.inf
