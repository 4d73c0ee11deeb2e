"""The rules of a policy: each a function that says in one sentence what the task does not keep."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime

from client.policy.declined import AgainstPolicy
from client.policy.entry import Entry
from client.policy.hours import Hours
from client.policy.policy import Policy
from fedtune.privacy.plan import Plan
from fedtune.recipe import Recipe
from fedtune.training.order import count_steps


@dataclass(frozen=True, slots=True)
class Asked:
    """What a task asks for, as far as rules look at it."""

    recipe: Recipe
    """As the coordinator sent it."""
    plan: Plan | None
    model_fingerprint: str
    now: datetime


Rule = Callable[[Policy, Asked], str | None]


def check_rules(policy: Policy, asked: Asked) -> None:
    """Raise AgainstPolicy with all that is against the policy, before a model is loaded or a row is read."""
    broken = [sentence for rule in RULES if (sentence := rule(policy, asked))]
    if broken:
        raise AgainstPolicy("the data owner's policy does not allow this: " + "; ".join(broken))


def check_steps(policy: Policy, recipe: Recipe, rows: int) -> None:
    """Raise AgainstPolicy where a round has more local steps than the policy allows."""
    most, steps = policy.max_steps_per_round, count_steps(rows, recipe.training)
    if most is not None and steps > most:
        # How many steps an epoch has tells how many rows there are; the recipe's own number tells nothing.
        count = f"{steps}" if recipe.training.steps is not None else "more"
        raise AgainstPolicy(
            f"the data owner's policy does not allow this: max_steps_per_round is {most}, and the task takes {count}",
            f"max_steps_per_round is {most}, and the task takes {steps} steps on {rows} rows",
        )


def check_rounds(policy: Policy, run: str, round_: int, past: Sequence[Entry]) -> None:
    """Raise AgainstPolicy where the run has had all the rounds that the policy allows it."""
    rounds = {entry.round for entry in past if entry.run == run and entry.task == "train"} | {round_}
    most = policy.max_rounds_per_run
    if most is not None and len(rounds) > most:
        raise AgainstPolicy(f"the data owner's policy does not allow this: max_rounds_per_run is {most}")


def _expires(policy: Policy, asked: Asked) -> str | None:
    over = policy.expires is not None and policy.now(asked.now).date() > policy.expires
    return f"it expired on {policy.expires}" if over else None


def _hours(policy: Policy, asked: Asked) -> str | None:
    if not policy.hours or Hours.parse(policy.hours).include(asked.now, policy.timezone):
        return None
    return f"hours are {policy.hours} ({policy.timezone or 'local time'})"


def _models(policy: Policy, asked: Asked) -> str | None:
    name = asked.recipe.model.name
    if not policy.models or name in policy.models or asked.model_fingerprint in policy.models:
        return None
    return f"models does not name {name!r} nor its fingerprint"


def _adapters(policy: Policy, asked: Asked) -> str | None:
    kind = asked.recipe.adapter.kind
    return f"adapters does not name {kind!r}" if policy.adapters and kind not in policy.adapters else None


def _schemes(policy: Policy, asked: Asked) -> str | None:
    scheme = asked.recipe.aggregation.scheme
    return f"schemes does not name {scheme!r}" if policy.schemes and scheme not in policy.schemes else None


def _init(policy: Policy, asked: Asked) -> str | None:
    init = asked.recipe.adapter.init
    return f"init does not name {init!r}" if policy.init and init not in policy.init else None


def _without_privacy(policy: Policy, asked: Asked) -> str | None:
    if asked.plan is not None or policy.without_privacy:
        return None
    return 'without_privacy is false, and the recipe has privacy.unit = "none"'


def _units(policy: Policy, asked: Asked) -> str | None:
    if asked.plan is None or asked.plan.unit in policy.units:
        return None
    return f'units does not name "{asked.plan.unit}"'


def _trust(policy: Policy, asked: Asked) -> str | None:
    if asked.plan is None or policy.trust == "coordinator" or asked.plan.trust == "client":
        return None
    return 'trust is "client", and the recipe has the coordinator add the noise'


def _noise(policy: Policy, asked: Asked) -> str | None:
    if asked.plan is None or asked.plan.noise_multiplier >= policy.noise_multiplier_min:
        return None
    return (
        f"noise_multiplier_min is {policy.noise_multiplier_min:g}, and the recipe's is {asked.plan.noise_multiplier:g}"
    )


RULES: tuple[Rule, ...] = (
    _expires,
    _hours,
    _models,
    _adapters,
    _schemes,
    _init,
    _without_privacy,
    _units,
    _trust,
    _noise,
)
