"""The learning rate of each method: the best on rows held out, or public ones, with a seed that is not reported."""

import math
from collections.abc import Callable, Iterable

from fedtune.errors import RunError
from simulations.studies.outcome import Outcome
from simulations.studies.plan import Plan


def choose_rates(plan: Plan, outcomes: Iterable[Outcome]) -> dict[str, float]:
    """By contender, the rate whose tuning cell has the highest accuracy on held-out rows, then the lowest loss.

    Where the plan has public rows for tuning, by the accuracy on those.

    A cell that failed never wins; a contender without rates has that of the one that it names. Raises RunError where
    every cell of a contender failed.
    """
    tuning = [outcome for outcome in outcomes if outcome.cell.stage == "tuning"]
    tuned = {name: contender.rate_of or name for name, contender in plan.contenders.items()}
    score = _public_score if plan.tuning_rows else _validation_score
    tried = {name: [outcome for outcome in tuning if outcome.cell.method == name] for name in set(tuned.values())}
    found = {name: _best(name, outcomes, score).cell.lr for name, outcomes in tried.items()}
    return {name: found[like] for name, like in tuned.items()}


def _best(method: str, tried: list[Outcome], score: Callable[[Outcome], tuple[float, ...]]) -> Outcome:
    sound = [outcome for outcome in tried if not outcome.failure]
    if not sound:
        why = tried[0].failure if tried else "none was tried"
        raise RunError(f"{method} learned at none of its learning rates: {why}")
    return max(sound, key=score)


def _validation_score(outcome: Outcome) -> tuple[float, ...]:
    loss = outcome.local_loss
    return outcome.local_accuracy or 0.0, -loss if loss is not None and math.isfinite(loss) else -math.inf


def _public_score(outcome: Outcome) -> tuple[float, ...]:
    return (outcome.accuracy or 0.0,)
