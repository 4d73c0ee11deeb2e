"""Rules of asynchronous rounds: what needs all updates of one round together, or counts on rounds that wait."""

from fedtune.recipe.recipe import Recipe
from fedtune.recipe.rule import Rule, into

BUFFER_RULES: list[Rule] = []
"""In the order of this file."""

refuses = into(BUFFER_RULES)

_OUT = "take federation.buffer out"


@refuses("federation.buffer", "federation.concurrency", "federation.staleness_exponent", "federation.max_staleness")
def _options_without_a_buffer(r: Recipe) -> str | None:
    f = r.federation
    if f.buffer or not (f.concurrency or f.max_staleness or f.staleness_exponent != 0.5):
        return None
    return (
        "federation.concurrency, staleness_exponent and max_staleness are read in asynchronous rounds alone: set "
        "federation.buffer, for example 10, or take them out"
    )


@refuses("federation.buffer", "federation.clients_per_round", "federation.over_select")
def _two_ways_to_ask(r: Recipe) -> str | None:
    f = r.federation
    if not f.buffer or not (f.clients_per_round or f.over_select):
        return None
    return (
        "federation.buffer closes a round after so many updates, and federation.concurrency says how many clients work "
        f"meanwhile: take clients_per_round and over_select out, or {_OUT}"
    )


@refuses("federation.buffer", "federation.min_replies")
def _more_replies_than_the_buffer(r: Recipe) -> str | None:
    f = r.federation
    if not f.buffer or f.min_replies <= f.buffer:
        return None
    return (
        f"federation.min_replies = {f.min_replies} is more than federation.buffer = {f.buffer}, so no round would "
        "count; lower the one or raise the other"
    )


@refuses("federation.buffer", "privacy.unit")
def _private_buffer(r: Recipe) -> str | None:
    if not r.federation.buffer or r.privacy.unit == "none":
        return None
    return (
        f'privacy.unit = "{r.privacy.unit}" is accounted for rounds that draw their clients and wait for them, and in '
        f"asynchronous rounds speed decides who takes part and how often; {_OUT}"
    )


@refuses("federation.buffer", "aggregation.scheme")
def _buffer_of_another_scheme(r: Recipe) -> str | None:
    if not r.federation.buffer or r.aggregation.scheme == "mean":
        return None
    return (
        f'aggregation.scheme = "{r.aggregation.scheme}" works on the adapters of one round, and in asynchronous rounds '
        f'updates are differences to several models; take scheme = "mean" (Fed-SB, FFA-LoRA, RAVAN, FedIT), or '
        f"{_OUT}"
    )


@refuses("federation.buffer", "aggregation.rule", "aggregation.before_rule")
def _buffer_with_a_rule(r: Recipe) -> str | None:
    section = r.aggregation
    if not r.federation.buffer or (section.rule == "mean" and not section.before_rule):
        return None
    return (
        "aggregation.rule and before_rule tell bad updates by how they differ from the others of one model, and in "
        f'asynchronous rounds old updates differ too; set rule = "mean" without before_rule, or {_OUT}'
    )


@refuses("federation.buffer", "aggregation.diagnose")
def _buffer_diagnosed(r: Recipe) -> str | None:
    if not r.federation.buffer or not r.aggregation.diagnose:
        return None
    return (
        "aggregation.diagnose compares the new model with the mean of adapters that began as one, and in asynchronous "
        f"rounds they begin as several; take diagnose out, or {_OUT}"
    )


@refuses("federation.buffer", "training.scaffold")
def _buffer_with_scaffold(r: Recipe) -> str | None:
    if not r.federation.buffer or not r.training.scaffold:
        return None
    return (
        "training.scaffold corrects local steps by control variates of one round, which an old update has outlived; "
        f"take scaffold out, or {_OUT}"
    )


@refuses("federation.buffer", "split.head_layers")
def _buffer_of_a_split_model(r: Recipe) -> str | None:
    if not r.federation.buffer or not r.split.active:
        return None
    return f'a split model trains with the coordinator in step; set split.head_layers = "none", or {_OUT}'


@refuses("federation.buffer", "federation.ranks")
def _buffer_of_ranks(r: Recipe) -> str | None:
    if not r.federation.buffer or not r.federation.ranks:
        return None
    return (
        "federation.ranks averages each slot over those who trained it in a round, and in asynchronous rounds a slot "
        f"may have been trained by slow clients alone; take ranks out, or {_OUT}"
    )


@refuses("federation.buffer", "compression.download")
def _buffer_with_encoded_downloads(r: Recipe) -> str | None:
    if not r.federation.buffer or not r.compression.download:
        return None
    return (
        "compression.download sends steps from one round's model to the next, and in asynchronous rounds clients are "
        f"several models apart; take download out, or {_OUT}"
    )


@refuses("federation.buffer", "compression.feedback")
def _buffer_with_copies(r: Recipe) -> str | None:
    if not r.federation.buffer or r.compression.feedback != "ef21":
        return None
    return (
        'compression.feedback = "ef21" is for rounds that wait, whose clients all begin with the newest model; take '
        f'feedback = "classic", or {_OUT}'
    )


@refuses("federation.buffer", "data.holdout_fraction")
def _buffer_scored_by_clients(r: Recipe) -> str | None:
    if not r.federation.buffer or not r.data.holdout_fraction:
        return None
    return (
        "data.holdout_fraction has clients score each model, for which a round would wait until they are done with "
        f"their work; set data.test_fraction or test_source in its place, or {_OUT}"
    )
