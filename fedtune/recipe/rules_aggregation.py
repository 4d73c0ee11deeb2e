"""Rules between the aggregation and the other sections: which schemes, ranks and corrections go together."""

from fedtune.recipe.adapter import AdapterForm
from fedtune.recipe.aggregation import SchemeName
from fedtune.recipe.ranks import read_rule
from fedtune.recipe.recipe import Recipe
from fedtune.recipe.rule import Rule, into

AGGREGATION_RULES: list[Rule] = []
"""In the order of this file."""

refuses = into(AGGREGATION_RULES)

SHIFTING: frozenset[SchemeName] = frozenset({"fedex", "flora"})
"""Schemes that add to the base weights."""
RESTARTING: frozenset[SchemeName] = frozenset({"flora", "flexlora", "florist", "fedsvd"})
"""Schemes that give the adapter new coordinates each round."""
PERSONAL: frozenset[SchemeName] = frozenset({"fedsa"})
"""Schemes that leave every client with an adapter of its own."""
DIFFERENT_RANKS: dict[SchemeName, frozenset[AdapterForm]] = {
    "mean": frozenset({"square", "ravan"}),
    "flora": frozenset({"lora"}),
    "flexlora": frozenset({"lora"}),
    "hetlora": frozenset({"lora"}),
    "florist": frozenset({"lora"}),
}
"""The adapters of which clients may hold different ranks, by scheme."""


@refuses("aggregation.scheme", "adapter.kind")
def _scheme_of_another_kind(r: Recipe) -> str | None:
    if r.aggregation.scheme == "mean" or r.adapter.form == "lora":
        return None
    if r.adapter.form == "ffa":
        return (
            f'aggregation.scheme = "{r.aggregation.scheme}" moves A, which adapter.freeze_a holds still; set '
            'scheme = "mean", which is exact for a frozen A, or freeze_a = false'
        )
    return (
        f'aggregation.scheme = "{r.aggregation.scheme}" is for adapter.kind = "lora", and kind is "{r.adapter.kind}"; '
        'set scheme = "mean", which serves every kind, or kind = "lora"'
    )


@refuses("aggregation.scheme", "model.quantization")
def _shift_of_a_quantised_base(r: Recipe) -> str | None:
    if r.aggregation.scheme not in SHIFTING or r.model.quantization == "none":
        return None
    return (
        f'aggregation.scheme = "{r.aggregation.scheme}" adds to the base weights, and 4-bit weights cannot take it up; '
        'set model.quantization = "none", or a scheme that stays in the adapter, such as "lora-fair"'
    )


@refuses("aggregation.scheme", "data.holdout_fraction")
def _own_adapters_unscored(r: Recipe) -> str | None:
    if r.aggregation.scheme not in PERSONAL or r.data.holdout_fraction:
        return None
    return (
        'aggregation.scheme = "fedsa" leaves every client with an adapter of its own, which only the client can score; '
        "set data.holdout_fraction, for example 0.2"
    )


@refuses("aggregation.rule", "aggregation.scheme")
def _rule_of_another_scheme(r: Recipe) -> str | None:
    if r.aggregation.rule == "mean" or r.aggregation.scheme == "mean":
        return None
    return (
        f'aggregation.rule = "{r.aggregation.rule}" takes the place of the mean, and scheme = "{r.aggregation.scheme}" '
        'does more than average; set scheme = "mean", or rule = "mean"'
    )


@refuses("aggregation.before_rule", "aggregation.rule")
def _before_no_rule(r: Recipe) -> str | None:
    if not r.aggregation.before_rule or r.aggregation.rule != "mean":
        return None
    return (
        'aggregation.before_rule prepares updates for a robust rule, and rule is "mean"; set rule, for example '
        '"trimmed-mean", or take before_rule out'
    )


@refuses("aggregation.bucket_size", "aggregation.attackers")
def _buckets_of_poison(r: Recipe) -> str | None:
    a = r.aggregation
    if "bucketing" not in a.before_rule or a.attackers * a.bucket_size < 0.5:
        return None
    return (
        f"aggregation.bucket_size = {a.bucket_size} with attackers = {a.attackers:g} could put poison into half of the "
        "buckets, which no rule stands; lower one of them until their product is under 0.5"
    )


@refuses("aggregation.rule", "training.scaffold")
def _rule_with_scaffold(r: Recipe) -> str | None:
    if r.aggregation.rule == "mean" or not r.training.scaffold:
        return None
    return (
        "training.scaffold sums the clients' control variates as they come, so one attacker moves them all, whatever "
        f'aggregation.rule = "{r.aggregation.rule}" does; take one of the two out'
    )


@refuses("aggregation.server_optimizer", "aggregation.scheme")
def _server_optimizer_of_another_scheme(r: Recipe) -> str | None:
    if r.aggregation.server_optimizer == "none" or r.aggregation.scheme == "mean":
        return None
    return (
        f'aggregation.server_optimizer = "{r.aggregation.server_optimizer}" steps along the mean delta, and scheme = '
        f'"{r.aggregation.scheme}" has none; set scheme = "mean", or server_optimizer = "none"'
    )


@refuses("federation.ranks", "aggregation.scheme")
def _ranks_that_must_be_alike(r: Recipe) -> str | None:
    allowed = DIFFERENT_RANKS.get(r.aggregation.scheme, frozenset())
    if not r.federation.ranks or r.adapter.form in allowed:
        return None
    return (
        f'federation.ranks gives clients different ranks, and scheme = "{r.aggregation.scheme}" with adapter.kind = '
        f'"{r.adapter.kind}" needs the same everywhere; take ranks out, or set kind = "square" or "ravan", or for lora '
        'scheme = "flora", "flexlora", "hetlora" or "florist"'
    )


@refuses("federation.ranks", "adapter.rank")
def _rank_above_the_adapters(r: Recipe) -> str | None:
    key = "heads" if r.adapter.kind == "ravan" else "rank"
    whole = getattr(r.adapter, key)
    above = [rule for rule in r.federation.ranks if read_rule(rule)[1] > whole]
    if not above:
        return None
    return f'federation.ranks has "{above[0]}", which is more than adapter.{key} = {whole}; lower it, or raise {key}'


@refuses("federation.ranks", "training.scaffold")
def _ranks_with_scaffold(r: Recipe) -> str | None:
    if not r.federation.ranks or not r.training.scaffold:
        return None
    return "training.scaffold keeps one control variate of the whole adapter; take it out, or federation.ranks"


@refuses("federation.ranks", "aggregation.rule")
def _ranks_with_a_rule(r: Recipe) -> str | None:
    if not r.federation.ranks or r.aggregation.rule == "mean":
        return None
    return (
        f'aggregation.rule = "{r.aggregation.rule}" compares whole updates, and federation.ranks makes them differ in '
        "shape; take one of the two out"
    )


@refuses("aggregation.prune", "aggregation.scheme")
def _prune_of_another_scheme(r: Recipe) -> str | None:
    if not r.aggregation.prune or r.aggregation.scheme == "hetlora":
        return None
    return 'aggregation.prune is for scheme = "hetlora"; take it out, or set scheme = "hetlora"'


@refuses("training.scaffold", "aggregation.scheme")
def _scaffold_of_another_scheme(r: Recipe) -> str | None:
    if not r.training.scaffold or r.aggregation.scheme == "mean":
        return None
    return 'training.scaffold is for aggregation.scheme = "mean"; take it out, or set scheme = "mean"'


@refuses("training.scaffold", "training.optimizer")
def _scaffold_of_another_optimizer(r: Recipe) -> str | None:
    t = r.training
    if not t.scaffold or (t.optimizer == "sgd" and not t.momentum and t.max_grad_norm is None and not t.weight_decay):
        return None
    return (
        "training.scaffold reads the mean gradient off the local steps, which must be plain ones; set optimizer = "
        '"sgd", momentum = 0, weight_decay = 0 and max_grad_norm = "none", or take scaffold out'
    )


@refuses("training.scaffold", "adapter.kind")
def _scaffold_of_scaled_heads(r: Recipe) -> str | None:
    if not r.training.scaffold or r.adapter.kind != "ravan":
        return None
    return (
        "training.scaffold corrects what travels, and ravan trains scales that do not: its control variates would not "
        'be gradients; take scaffold out, or set adapter.kind = "square"'
    )


@refuses("run.soup", "model.quantization")
def _soup_into_a_quantised_base(r: Recipe) -> str | None:
    if r.run.soup == "none" or r.adapter.form != "lora" or r.model.quantization == "none":
        return None
    return (
        "run.soup of lora adds the mean product to the base weights, and 4-bit weights cannot take it up; set "
        'model.quantization = "none", adapter.freeze_a = true or kind = "square", or take soup out'
    )


@refuses("run.soup", "run.keep_checkpoints")
def _soup_of_too_few(r: Recipe) -> str | None:
    if r.run.soup == "none" or r.run.keep_checkpoints > 2:
        return None
    return "run.soup averages the kept checkpoints; set run.keep_checkpoints, for example 5"


@refuses("run.soup", "aggregation.scheme")
def _soup_of_own_adapters(r: Recipe) -> str | None:
    if r.run.soup == "none" or r.aggregation.scheme not in PERSONAL:
        return None
    return 'run.soup averages global adapters, and scheme = "fedsa" has none; take soup out'


@refuses("run.soup", "data.test_source")
def _greedy_soup_unscored(r: Recipe) -> str | None:
    if r.run.soup != "greedy" or r.data.test_source or (r.data.source and r.data.test_fraction):
        return None
    return (
        'run.soup = "greedy" scores soups on the coordinator\'s test rows; set data.test_source or data.test_fraction, '
        'or soup = "uniform"'
    )
