"""What a run promises, in one sentence, before it begins."""

from fedtune.privacy.plan import Plan, plan_of
from fedtune.recipe import Recipe
from fedtune.split.release import release_of, said


def promise(recipe: Recipe) -> str:
    """ε, δ, unit, neighbouring relation, noise and sampling of a recipe; empty where it promises nothing.

    Of noise on a split model's activations what it promises for them alone, for clients of any number of rows.
    """
    plan = plan_of(recipe)
    if plan is None:
        release = release_of(recipe)
        return "" if release is None else said(release)
    from fedtune.privacy.accounting import epsilon_of

    epsilon = epsilon_of(plan.planned(), plan.delta)
    return (
        f"privacy: ε = {epsilon:.4g} at δ = {plan.delta:g} for each {plan.unit} ({plan.relation}) over {plan.rounds} "
        f"rounds; noise σ = {plan.noise_multiplier:.4g} times the clip {plan.clip:g}, {_sampling(plan)}"
    )


def _sampling(plan: Plan) -> str:
    return {
        "poisson-rows": f"rows sampled with q = {plan.sampling_rate:g}, {plan.steps} steps a round",
        "poisson-clients": f"clients sampled with q = {plan.sampling_rate:g}",
        "separated": f"each client at most once in {plan.separation} rounds",
        "none": "no sampling",
    }[plan.sampler]
