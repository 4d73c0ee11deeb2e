"""Rules about compression: which stages follow which, and what feedback and encoded downloads go with."""

from collections.abc import Sequence

from fedtune.recipe.allowed import as_toml
from fedtune.recipe.recipe import Recipe
from fedtune.recipe.rule import Rule, into
from fedtune.recipe.rules_aggregation import RESTARTING

COMPRESSION_RULES: list[Rule] = []
"""In the order of this file."""

refuses = into(COMPRESSION_RULES)

HALVES = frozenset({"fp16", "bf16"})
SPARSE = frozenset({"ternary", "top-k", "random-k"})
SYMBOLS = frozenset({"ternary", "top-k", "int8", "int4"})
"""Stages that make symbols, which a coder makes small."""
TERNARY = frozenset({"ternary", "top-k"})
"""Those of -1, 0 and 1 alone."""
QUANTISERS = frozenset({"ternary", "sign", "int8", "int4", "nf4"})
CODERS = frozenset({"entropy", "rice", "bitmask"})


def _wrong_order(stages: Sequence[str]) -> str | None:
    """What is wrong with a list of stages; None where they work together."""
    if len(set(stages)) < len(stages):
        return "names a stage twice; keep one of them"
    for group, what in ((HALVES, "halves the precision twice"), (CODERS, "codes twice"), (SPARSE, "drops twice")):
        if len(both := [stage for stage in stages if stage in group]) > 1:
            return f"{what}; keep one of {' and '.join(map(as_toml, both))}"
    if len(both := [stage for stage in stages if stage in QUANTISERS]) > 1:
        return f"quantises twice; keep one of {' and '.join(map(as_toml, both))}"
    return _misplaced(stages)


def _misplaced(stages: Sequence[str]) -> str | None:
    for position, stage in enumerate(stages):
        before = set(stages[:position])
        if stage in CODERS and not before & SYMBOLS:
            return f"codes symbols by {as_toml(stage)} that no stage made; put ternary, top-k, int8 or int4 before it"
        if stage in CODERS - {"entropy"} and before & (SYMBOLS - TERNARY):
            return f"has {as_toml(stage)} after symbols of more than three values; take entropy instead"
        if stage not in CODERS | HALVES and before & (CODERS | HALVES | QUANTISERS):
            return f"has {as_toml(stage)} after a stage that leaves it nothing to work on; put it earlier"
        if stage in HALVES and before & CODERS:
            return f"has {as_toml(stage)} after a coder; put it before"
        if stage in {"rotate", "low-rank"} and before & SPARSE:
            return f"has {as_toml(stage)} after numbers were dropped; put it first"
    return None


@refuses("compression.upload")
def _upload_out_of_order(r: Recipe) -> str | None:
    wrong = _wrong_order(r.compression.upload)
    return wrong and f"compression.upload = [{', '.join(map(as_toml, r.compression.upload))}] {wrong}"


@refuses("compression.download")
def _download_out_of_order(r: Recipe) -> str | None:
    wrong = _wrong_order(r.compression.download)
    return wrong and f"compression.download = [{', '.join(map(as_toml, r.compression.download))}] {wrong}"


@refuses("compression.feedback", "aggregation.scheme")
def _feedback_for_an_adapter_that_restarts(r: Recipe) -> str | None:
    if r.compression.feedback not in ("classic", "ef21") or r.aggregation.scheme not in RESTARTING:
        return None
    return (
        f'aggregation.scheme = "{r.aggregation.scheme}" gives the adapter new coordinates each round, in which '
        f'compression.feedback = "{r.compression.feedback}" would add what belongs to the old ones; set feedback = '
        '"none", or another scheme'
    )


@refuses("compression.feedback", "compression.upload")
def _feedback_that_would_grow(r: Recipe) -> str | None:
    if r.compression.feedback not in ("classic", "ef21") or "random-k" not in r.compression.upload:
        return None
    return (
        'compression.upload has "random-k", which is right in the mean over rounds and sends many times what it keeps: '
        f'compression.feedback = "{r.compression.feedback}" would grow without bound; set feedback = "none", or take '
        '"top-k"'
    )


@refuses("compression.download")
def _download_that_would_grow(r: Recipe) -> str | None:
    if "random-k" not in r.compression.download:
        return None
    return (
        'compression.download has "random-k", and what downloads leave out is always fed back, which it '
        'would multiply each round; take "top-k" or "ternary"'
    )


@refuses("compression.feedback", "federation.ranks")
def _copies_of_different_ranks(r: Recipe) -> str | None:
    if r.compression.feedback != "ef21" or not (r.federation.ranks or r.aggregation.scheme == "rolora"):
        return None
    return (
        'compression.feedback = "ef21" holds a copy of the whole update of every client, and here updates differ in '
        'shape from round to round; set feedback = "classic"'
    )


@refuses("compression.download", "federation.ranks")
def _steps_for_different_ranks(r: Recipe) -> str | None:
    if not r.compression.download or not (r.federation.ranks or r.aggregation.scheme in RESTARTING):
        return None
    return (
        "compression.download sends all clients the same step of one state, and here they hold different parts of it "
        "or it starts anew each round; take download out"
    )
