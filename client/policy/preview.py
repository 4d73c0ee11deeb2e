"""What a policy would make of a recipe: allowed or not, and what the whole run would come to."""

from collections.abc import Sequence
from datetime import UTC, datetime

from client.policy.account import EpsilonOf, spent
from client.policy.declined import BudgetSpent
from client.policy.entry import Entry
from client.policy.policy import Policy
from client.policy.rules import Asked, check_rules
from fedtune.privacy.plan import Plan, calibrated, plan_of
from fedtune.recipe.load import load_recipe


def preview(policy: Policy, recipe: str, entries: Sequence[Entry], epsilon_of: EpsilonOf | None = None) -> str:
    """One sentence on a recipe (a file, or a ready one's name) that the policy allows; whatever the hour.

    Raises AgainstPolicy or BudgetSpent where it does not allow all of it, RecipeError where it is none.
    """
    settled = calibrated(load_recipe(recipe))
    plan = plan_of(settled)
    always = policy.model_copy(update={"hours": ""})
    check_rules(always, Asked(settled, plan, "", datetime.now(UTC)))
    if plan is None:
        return f"{recipe} is allowed, without any privacy"
    budget = policy.budget
    if budget is None:
        return f"{recipe} is allowed"
    total = spent([*entries, _whole(plan)], budget.delta, epsilon_of)
    if not total.epsilon <= budget.epsilon:
        raise BudgetSpent(
            f"the whole run of {recipe} would bring {policy.dataset} to ε {total.epsilon:.4g} at δ = {budget.delta:g}, "
            f"more than budget.epsilon = {budget.epsilon:g}: it would be taken part in until that is reached"
        )
    return f"{recipe} is allowed: after its whole run ε {total.epsilon:.4g} of {budget.epsilon:g} would be spent"


def _whole(plan: Plan) -> Entry:
    return Entry(
        what="reserve",
        at="",
        run="",
        round=0,
        task="train",
        unit=plan.unit,
        relation=plan.relation,
        trust=plan.trust,
        events=plan.planned(),
    )
