"""What a task costs the data set that it is done on, read off the very plan by which it will be done."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from client.policy.declined import Withheld
from client.policy.entry import Entry
from fedtune.privacy.events import Event, Relation
from fedtune.privacy.plan import Plan, Trust, separated_participations
from fedtune.recipe import Recipe
from fedtune.wire import Task


@dataclass(frozen=True, slots=True)
class Charge:
    """The part of an entry that says what is spent."""

    unit: Literal["none", "example", "client"]
    relation: Relation = "add-or-remove-one"
    trust: Trust = "client"
    events: tuple[Event, ...] = ()
    through: int = 0


def check_covered(task: Task, plan: Plan | None) -> None:
    """Raise Withheld where under privacy the task asks for what no noise covers."""
    if plan is None:
        return
    if task.kind == "evaluate" and not plan.evaluation_events:
        raise Withheld("scores of private rows are withheld under privacy: no noise of the recipe covers them")
    if task.kind == "gradient" and not plan.start_events:
        raise Withheld("gradients of private rows are withheld under privacy: no noise of the recipe covers them")


def charge_of(task: Task, recipe: Recipe, plan: Plan | None, past: Sequence[Entry]) -> Charge:
    """What the task spends, after the entries `past` of its run."""
    if plan is None:
        return Charge("none")
    if task.kind == "train" and plan.trust == "coordinator":
        return _central(task, recipe, plan, past)
    events = {
        "train": plan.round_events,
        "gradient": plan.start_events,
        "evaluate": plan.evaluation_events,
    }[task.kind]
    return Charge(plan.unit, plan.relation, plan.trust, events)


def _central(task: Task, recipe: Recipe, plan: Plan, past: Sequence[Entry]) -> Charge:
    """Noise of the coordinator, as it claims: every round is paid for, also those that this client is not drawn for.

    The first task pays for all planned rounds: a sample hides who is in it from the first round to the last, whether a
    client sees them or not. More is due only for rounds beyond them, for one that is asked for again, and where a
    client whose rounds are to lie apart is asked more often: it never pays for fewer rounds than it was asked for.
    """
    paid = max((entry.through for entry in past), default=0)
    through = max(paid, recipe.federation.rounds, task.round)
    asked = [entry for entry in past if (entry.what, entry.task) == ("reserve", "train")]
    again = any(entry.round == task.round for entry in asked)
    if plan.sampler == "separated":
        more = separated_participations(through, plan.separation) - separated_participations(paid, plan.separation)
        bought = sum(event.count for entry in asked for event in entry.events)
        times = max(more + again, len(asked) + 1 - bought)
        # One participation each; together they are what the plan releases at once: (Σ σ⁻²)^(-1/2) = σ/√times.
        per_round: tuple[Event, ...] = (Event(noise_multiplier=plan.noise_multiplier),)
    else:
        times, per_round = through - paid + again, plan.round_events
    events = tuple(event.times(times) for event in per_round) if times else ()
    return Charge(plan.unit, plan.relation, plan.trust, events, through)
