"""Hypothesis strategies that tests share: recipes, drawn from what the sections declare."""

import types
from typing import Any, Literal, Union, get_args, get_origin

import annotated_types as bounds
from hypothesis import assume
from hypothesis import strategies as st
from pydantic.fields import FieldInfo

from fedtune.recipe import Recipe
from fedtune.recipe.aggregation import SchemeName
from fedtune.recipe.keys import field_at, leaf_keys
from fedtune.recipe.lines import Path
from fedtune.recipe.methods import METHODS
from fedtune.recipe.rules import broken_rules
from fedtune.recipe.rules_aggregation import DIFFERENT_RANKS, PERSONAL, RESTARTING, SHIFTING

TEXTS = st.text(st.characters(codec="utf-8", exclude_categories=["Cs"]), max_size=12)
NAMES = st.from_regex(r"[A-Za-z0-9][A-Za-z0-9._-]{0,10}", fullmatch=True)
DEVICES = st.sampled_from(["auto", "cpu", "mps", "cuda", "cuda:1"])

PATTERNED: dict[Path, st.SearchStrategy[Any]] = {
    ("run", "name"): NAMES,
    ("training", "device"): DEVICES,
    ("run", "keep_checkpoints"): st.integers(3, 9),
}
"""Fields whose texts follow a pattern."""

COUPLED: frozenset[Path] = frozenset(
    {
        ("method",),
        ("adapter", "alpha"),
        ("adapter", "freeze_a"),
        ("adapter", "peft_type"),
        ("adapter", "peft_options"),
        ("adapter", "prompt_tokens"),
        ("aggregation", "before_rule"),
        ("aggregation", "prune"),
        ("aggregation", "rule"),
        ("aggregation", "scheme"),
        ("aggregation", "server_optimizer"),
        ("federation", "ranks"),
        ("model", "quantization"),
        ("training", "max_grad_norm"),
        ("training", "scaffold"),
        ("training", "weight_decay"),
        ("run", "soup"),
        ("adapter", "dropout"),
        ("adapter", "head"),
        ("adapter", "init"),
        ("adapter", "init_source"),
        ("adapter", "kind"),
        ("data", "holdout_fraction"),
        ("data", "partition", "column"),
        ("federation", "buffer"),
        ("federation", "clients_per_round"),
        ("federation", "concurrency"),
        ("federation", "early_stop"),
        ("federation", "evaluate_every"),
        ("federation", "min_clients"),
        ("federation", "min_replies"),
        ("federation", "max_staleness"),
        ("federation", "over_select"),
        ("federation", "staleness_exponent"),
        ("model", "labels"),
        ("model", "name"),
        ("model", "task"),
        ("privacy", "unit"),
        ("training", "epochs"),
        ("training", "momentum"),
        ("training", "optimizer"),
        ("training", "steps"),
        ("compression", "upload"),
        ("compression", "download"),
        ("compression", "feedback"),
    }
)
"""Keys that rules tie to others: drawn together, so that few recipes must be thrown away."""


def values_of(field: FieldInfo) -> st.SearchStrategy[Any]:
    """Values that a field declares to take."""
    return _of(field.annotation, tuple(field.metadata))


@st.composite
def recipes(draw: st.DrawFn) -> Recipe:
    """A recipe that loading could give: every rule is kept, about half of the keys have not their default."""
    values: dict[str, Any] = {}
    for path in leaf_keys():
        field = field_at(path)
        if (
            field is not None
            and path not in COUPLED
            and path[0] not in ("privacy", "split", "simulation")
            and draw(st.booleans())
        ):
            _put(values, path, draw(PATTERNED.get(path, values_of(field))))
    coupled = draw(coupled_keys())
    devices = {} if coupled[("method",)] == "sfprompt" else draw(simulations())
    whole = coupled[("adapter", "kind")] != "full"  # no gradient of embeddings is taken by example
    for path, value in (coupled | (draw(splits(coupled)) or (draw(promises()) if whole else {}) | devices)).items():
        _put(values, path, value)
    recipe = Recipe.model_validate(values)
    assume(not broken_rules(recipe))
    asynchronous = recipe.model_copy(
        update={"federation": recipe.federation.model_copy(update=draw(buffers(recipe.federation.min_replies)))}
    )
    return recipe if broken_rules(asynchronous) else asynchronous


@st.composite
def buffers(draw: st.DrawFn, least: int) -> dict[str, Any]:
    """The keys of asynchronous rounds, in which at least so many updates make a model; often none."""
    if draw(st.booleans()):
        return {}
    return {
        "buffer": least + draw(st.integers(0, 9)),
        "concurrency": draw(st.integers(0, 99)),
        "staleness_exponent": draw(st.floats(0, 4)),
        "max_staleness": draw(st.integers(0, 9)),
        "clients_per_round": 0,
        "over_select": 0.0,
    }


@st.composite
def coupled_keys(draw: st.DrawFn) -> dict[Path, Any]:
    """The keys of `COUPLED`, as rules allow them together."""
    language = draw(st.booleans())
    least = draw(st.integers(1, 5))
    asked = draw(st.sampled_from([0, least, least + 3]))
    stop = draw(st.sampled_from([0, 2]))
    scaffold = draw(st.integers(0, 4)) == 0
    sgd = scaffold or draw(st.booleans())
    length = draw(st.sampled_from([{}, {("training", "epochs"): 3}, {("training", "steps"): 7}]))
    return {
        **draw(adapters(plain=scaffold)),
        ("training", "scaffold"): scaffold,
        ("training", "max_grad_norm"): None if scaffold else draw(st.sampled_from([None, 1.0])),
        ("training", "weight_decay"): 0.0 if scaffold else draw(st.sampled_from([0.0, 0.01])),
        **length,
        ("model", "name"): draw(TEXTS.filter(bool)),
        ("model", "task"): "causal-lm" if language else draw(st.sampled_from(["sequence-classification"])),
        ("model", "labels"): () if language else tuple(draw(st.lists(TEXTS, min_size=2, max_size=4, unique=True))),
        ("adapter", "head"): not language and draw(st.booleans()),
        ("data", "partition", "column"): draw(TEXTS.filter(bool)),
        ("data", "holdout_fraction"): draw(st.sampled_from([0.1, 0.25])),
        ("federation", "min_replies"): least,
        ("federation", "min_clients"): least + draw(st.integers(0, 3)),
        ("federation", "clients_per_round"): asked,
        ("federation", "over_select"): draw(st.sampled_from([0.0, 0.3])) if asked else 0.0,
        ("federation", "early_stop"): stop,
        ("federation", "evaluate_every"): draw(st.integers(1, 3)) if stop else draw(st.integers(0, 3)),
        ("training", "optimizer"): "sgd" if sgd else "adamw",
        ("training", "momentum"): draw(st.sampled_from([0.0, 0.9])) if sgd and not scaffold else 0.0,
        ("compression", "upload"): draw(
            st.sampled_from([(), ("bf16",), ("rotate", "int8", "entropy"), ("ternary", "rice")])
        ),
    }


@st.composite
def simulations(draw: st.DrawFn) -> dict[Path, Any]:
    """The keys of `[simulation]`; mostly none."""
    availability = draw(st.sampled_from([None, None, "always", "diurnal", "trace"]))
    if availability is None:
        return {}
    classes = draw(st.sampled_from([(), ("phone=0.7:4", "laptop=0.3:40")]))
    return {
        ("simulation", "availability"): availability,
        ("simulation", "trace"): "online.csv" if availability == "trace" else "",
        ("simulation", "device_classes"): classes,
        ("simulation", "rows_per_s"): 0.0 if classes else draw(st.floats(0, 99)),
        ("simulation", "speed_spread"): draw(st.floats(0, 5)),
        ("simulation", "latency_s"): draw(st.floats(0, 9)),
        ("simulation", "up_mbps"): draw(st.floats(0, 9)),
        ("simulation", "online_share"): draw(st.floats(0.01, 1)),
        ("simulation", "fail_in_upload"): draw(st.floats(0, 1)),
        ("simulation", "failures"): draw(st.sampled_from([(), ("client-7=3", "client-2=4:upload")])),
    }


@st.composite
def promises(draw: st.DrawFn) -> dict[Path, Any]:
    """The keys of `[privacy]`, and what follows from them elsewhere; mostly none."""
    unit = draw(st.sampled_from(["none", "none", "none", "example", "client", "local"]))
    if unit == "none":
        return {}
    amount = draw(st.sampled_from(["epsilon", "noise_multiplier"]))
    keys: dict[Path, Any] = {
        ("privacy", "unit"): "example" if unit == "example" else "client",
        ("privacy", "delta"): draw(st.sampled_from([1e-5, 1e-9])),
        ("privacy", "clip"): draw(st.floats(0.01, 10)),
        ("privacy", amount): draw(st.floats(0.5, 8)),
        ("aggregation", "weights"): "uniform",
        ("training", "scaffold"): False,
        ("federation", "early_stop"): 0,
        ("federation", "evaluate_clients"): 0,
    }
    if unit == "example":
        return keys | {
            ("privacy", "sampling_rate"): draw(st.floats(0.001, 1)),
            ("privacy", "clipping"): draw(st.sampled_from(["flat", "per-layer", "automatic"])),
            ("training", "epochs"): 1,
            ("training", "steps"): draw(st.integers(1, 9)),
            ("training", "max_grad_norm"): None,
            ("training", "compile"): False,
            ("training", "gradient_checkpointing"): False,
        }
    keys |= {
        ("federation", "over_select"): 0.0,
        ("federation", "min_replies"): 1,
        ("federation", "clients_per_round"): 0,
        ("federation", "ranks"): (),
        ("data", "holdout_fraction"): 0.0,
        ("aggregation", "rule"): "mean",
        ("aggregation", "before_rule"): (),
        ("aggregation", "diagnose"): False,
        ("compression", "feedback"): "auto",
    }
    if unit == "local":
        return keys | {("privacy", "noise"): "client"}
    return keys | {("privacy", "population"): draw(st.integers(9, 9999)), ("privacy", "sampling_rate"): 0.5}


@st.composite
def splits(draw: st.DrawFn, others: dict[Path, Any]) -> dict[Path, Any]:
    """The keys of `[split]`, and what follows from them elsewhere; mostly none."""
    kind, scaffold = others[("adapter", "kind")], others[("training", "scaffold")]
    plain = others[("aggregation", "scheme")] == "mean" and others[("method",)] in ("", "sfprompt")
    if not plain or kind in ("peft", "prompt") or (others[("method",)] == "" and draw(st.integers(0, 3))):
        return {}
    head, tail, tokens = draw(st.integers(0, 3)), draw(st.integers(0, 3)), draw(st.sampled_from([0, 5]))
    place = draw(st.sampled_from(["input", "cut"])) if tokens else "input"
    noise, activations = draw(st.sampled_from([0.0, 0.5])), draw(st.sampled_from(["fp16", "topk"]))
    trains_head, keep = head > 0 and draw(st.booleans()), draw(st.floats(0.1, 1))
    if noise:
        tokens, place, trains_head, keep = 0, "input", False, 1.0
    return {
        ("split", "head_layers"): head,
        ("split", "tail_layers"): tail if kind == "full" else tail + 1,
        ("split", "train_head"): trains_head,
        ("split", "prompt_tokens"): tokens,
        ("split", "prompt_at"): place,
        ("split", "deep_prompts"): tokens > 0 and place == "input" and draw(st.booleans()),
        ("split", "local_epochs"): 0 if scaffold else draw(st.integers(0, 2)),
        ("split", "keep"): keep,
        ("split", "activations"): activations,
        ("split", "topk"): draw(st.floats(0.1, 1)) if activations == "topk" else 0.1,
        ("split", "in_flight"): draw(st.integers(1, 9)),
        ("split", "noise_multiplier"): noise,
        ("split", "clip"): draw(st.floats(0.1, 9)) if noise else 1.0,
        ("split", "delta"): 1e-5 if noise else None,
        ("adapter", "init"): "random" if kind in ("ravan", "square") else others[("adapter", "init")],
        ("adapter", "init_source"): "",
        ("model", "quantization"): "none",
        ("training", "proximal"): 0.0,
        ("training", "compile"): False,
        ("training", "gradient_checkpointing"): False,
    }


STARTS = {
    "lora": ["kaiming"],
    "square": ["weights", "random", "public-gradient", "private-gradient"],
    "ravan": ["random"],
    "peft": ["random"],
    "prompt": ["random", "weights"],
    "full": ["weights"],
}


@st.composite
def adapters(draw: st.DrawFn, *, plain: bool) -> dict[Path, Any]:
    """A kind of adapter with a start and a scheme of its own, and a method that agrees with all, or none.

    `plain` is for corrections that only the plain mean of equal ranks allows.
    """
    kind = draw(st.sampled_from(sorted(STARTS.keys() - {"ravan"} if plain else STARTS)))
    init = draw(st.sampled_from(STARTS[kind]))
    freeze_a = kind == "lora" and draw(st.booleans())
    scheme = "mean"
    if kind == "lora" and not freeze_a and not plain:
        scheme = draw(st.sampled_from(get_args(SchemeName)))
    different = kind in DIFFERENT_RANKS.get(scheme, ()) and not freeze_a and not plain
    ranks = draw(st.sampled_from([(), ("a*=1", "*-b=1")])) if different else ()
    robust = scheme == "mean" and not plain and not ranks and draw(st.booleans())
    chosen = {("adapter", "kind"): kind, ("adapter", "init"): init, ("aggregation", "scheme"): scheme}
    chosen[("adapter", "freeze_a")] = freeze_a
    agreeing = [
        name
        for name, m in METHODS.items()
        if all(path[0] == "split" or chosen[path] in values for path, values in m.settles.items())
    ]
    steady = not ranks and scheme not in RESTARTING and scheme != "rolora"
    fixed = scheme in SHIFTING or kind == "full"
    whole = scheme not in PERSONAL and not (kind == "lora" and not freeze_a)
    return {
        **chosen,
        **({("adapter", "targets"): "all-linear"} if kind in ("full", "prompt") else {}),
        ("run", "soup"): draw(st.sampled_from(["none", "uniform"])) if whole else "none",
        ("method",): draw(st.sampled_from(["", *agreeing])),
        ("adapter", "init_source"): draw(TEXTS.filter(bool)) if init == "public-gradient" else "",
        ("adapter", "alpha"): draw(st.sampled_from([None, 8.0])) if kind == "lora" else None,
        ("adapter", "dropout"): draw(st.sampled_from([0.0, 0.05])) if kind == "lora" else 0.0,
        ("adapter", "peft_type"): "ia3" if kind == "peft" else "",
        ("adapter", "peft_options"): draw(st.sampled_from([(), ("a=1", "b=x")])) if kind == "peft" else (),
        ("adapter", "prompt_tokens"): draw(st.integers(1, 99)) if kind == "prompt" else 20,
        ("aggregation", "rule"): draw(st.sampled_from(["median", "krum"])) if robust else "mean",
        ("aggregation", "before_rule"): draw(st.sampled_from([(), ("nnm",)])) if robust else (),
        ("aggregation", "prune"): draw(st.sampled_from([0.0, 0.25])) if scheme == "hetlora" else 0.0,
        ("aggregation", "server_optimizer"): draw(st.sampled_from(["none", "yogi"])) if scheme == "mean" else "none",
        ("compression", "download"): draw(st.sampled_from([(), ("ternary", "entropy")])) if steady else (),
        ("compression", "feedback"): draw(st.sampled_from(["auto", "classic", "ef21"])) if steady else "auto",
        ("federation", "ranks"): ranks,
        ("model", "quantization"): draw(st.sampled_from(["none"] if fixed else ["none", "nf4"])),
    }


def _of(annotation: Any, metadata: tuple[object, ...]) -> st.SearchStrategy[Any]:
    if get_origin(annotation) in (Union, types.UnionType):
        return st.one_of([_of(part, metadata) for part in get_args(annotation)])
    if get_origin(annotation) is Literal:
        return st.sampled_from(get_args(annotation))
    if get_origin(annotation) is tuple:
        inner = get_args(annotation)[0]
        if hasattr(inner, "__metadata__"):  # texts that may not be empty
            return st.lists(TEXTS.filter(bool), min_size=1, max_size=3).map(tuple)
        return st.lists(_of(inner, ()), max_size=3).map(tuple)
    return _SIMPLE[annotation](metadata)


def _limit(metadata: tuple[object, ...], inclusive: type, exclusive: type) -> tuple[Any, bool]:
    for limit in metadata:
        if isinstance(limit, inclusive):
            return next(iter(vars_of(limit))), False
        if isinstance(limit, exclusive):
            return next(iter(vars_of(limit))), True
    return None, False


def vars_of(limit: Any) -> list[Any]:
    """The number of a bound."""
    return [getattr(limit, word) for word in ("ge", "gt", "le", "lt") if hasattr(limit, word)]


def _whole(metadata: tuple[object, ...]) -> st.SearchStrategy[int]:
    low, above = _limit(metadata, bounds.Ge, bounds.Gt)
    high, below = _limit(metadata, bounds.Le, bounds.Lt)
    return st.integers(None if low is None else low + above, None if high is None else high - below)


def _real(metadata: tuple[object, ...]) -> st.SearchStrategy[float]:
    low, above = _limit(metadata, bounds.Ge, bounds.Gt)
    high, below = _limit(metadata, bounds.Le, bounds.Lt)
    return st.floats(low, high, exclude_min=above, exclude_max=below, allow_nan=False, allow_infinity=False)


_SIMPLE: dict[Any, Any] = {
    int: _whole,
    float: _real,
    bool: lambda _: st.booleans(),
    str: lambda metadata: TEXTS.filter(bool) if any(isinstance(m, bounds.MinLen) for m in metadata) else TEXTS,
    type(None): lambda _: st.none(),
}


def _put(values: dict[str, Any], path: Path, value: Any) -> None:
    for part in path[:-1]:
        values = values.setdefault(str(part), {})
    values[str(path[-1])] = value
