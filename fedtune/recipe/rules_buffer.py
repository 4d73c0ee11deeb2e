"""Rules of asynchronous rounds: what needs all updates of one round together, or counts on rounds that wait."""

from collections.abc import Callable
from dataclasses import dataclass

from fedtune.recipe.recipe import Recipe
from fedtune.recipe.rule import Rule, Says, into

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


@refuses("federation.buffer", "federation.min_replies")
def _more_replies_than_the_buffer(r: Recipe) -> str | None:
    f = r.federation
    if not f.buffer or f.min_replies <= f.buffer:
        return None
    return (
        f"federation.min_replies = {f.min_replies} is more than federation.buffer = {f.buffer}, so no round would "
        "count; lower the one or raise the other"
    )


@dataclass(frozen=True, slots=True)
class _Clash:
    """Something else that a recipe with a buffer may not ask for."""

    keys: tuple[str, ...]
    asks: Callable[[Recipe], bool]
    why: str
    """With `{r}` for the recipe."""
    way: str = ""
    """Out of it, beside taking the buffer out; empty where there is none."""


_CLASHES = (
    _Clash(
        ("federation.clients_per_round", "federation.over_select"),
        lambda r: bool(r.federation.clients_per_round or r.federation.over_select),
        "federation.buffer closes a round after so many updates, and federation.concurrency says how many clients work "
        "meanwhile",
        "take clients_per_round and over_select out",
    ),
    _Clash(
        ("privacy.unit",),
        lambda r: r.privacy.unit != "none",
        'privacy.unit = "{r.privacy.unit}" is accounted for rounds that draw their clients and wait for them, and in '
        "asynchronous rounds speed decides who takes part and how often",
    ),
    _Clash(
        ("aggregation.scheme",),
        lambda r: r.aggregation.scheme != "mean",
        'aggregation.scheme = "{r.aggregation.scheme}" works on the adapters of one round, and in asynchronous rounds '
        "updates are differences to several models",
        'take scheme = "mean" (Fed-SB, FFA-LoRA, RAVAN, FedIT)',
    ),
    _Clash(
        ("aggregation.rule", "aggregation.before_rule"),
        lambda r: r.aggregation.rule != "mean" or bool(r.aggregation.before_rule),
        "aggregation.rule and before_rule tell bad updates by how they differ from the others of one model, and in "
        "asynchronous rounds old updates differ too",
        'set rule = "mean" without before_rule',
    ),
    _Clash(
        ("aggregation.diagnose",),
        lambda r: r.aggregation.diagnose,
        "aggregation.diagnose compares the new model with the mean of adapters that began as one, and in asynchronous "
        "rounds they begin as several",
        "take diagnose out",
    ),
    _Clash(
        ("training.scaffold",),
        lambda r: r.training.scaffold,
        "training.scaffold corrects local steps by control variates of one round, which an old update has outlived",
        "take scaffold out",
    ),
    _Clash(
        ("split.head_layers",),
        lambda r: r.split.active,
        "a split model trains with the coordinator in step",
        'set split.head_layers = "none"',
    ),
    _Clash(
        ("compression.download",),
        lambda r: bool(r.compression.download),
        "compression.download sends steps from one round's model to the next, and in asynchronous rounds clients are "
        "several models apart",
        "take download out",
    ),
    _Clash(
        ("data.holdout_fraction",),
        lambda r: bool(r.data.holdout_fraction),
        "data.holdout_fraction has clients score each model, for which a round would wait until they are done with "
        "their work",
        "set data.test_fraction or test_source in its place",
    ),
)


def _saying(clash: _Clash) -> Says:
    def says(r: Recipe) -> str | None:
        if not r.federation.buffer or not clash.asks(r):
            return None
        ways = f"{clash.way}, or {_OUT}" if clash.way else _OUT
        return f"{clash.why.format(r=r)}; {ways}"

    says.__name__ = f"_buffer_with_{clash.keys[0].partition('.')[2]}"
    return says


for _clash in _CLASHES:
    refuses("federation.buffer", *_clash.keys)(_saying(_clash))
