"""Every rule between the sections of a recipe: which mixes are refused, why, and the ways out.

A rule is a small function from a recipe to a sentence, or None where the recipe keeps it, and the keys that it is
about. Keys of one section that exclude each other are rules too; what one key may hold by itself is its type's.
"""

from collections.abc import Mapping

from fedtune.recipe.adapter import AdapterKind, AdapterSection
from fedtune.recipe.allowed import as_toml
from fedtune.recipe.lines import Path
from fedtune.recipe.problems import Problem
from fedtune.recipe.recipe import Recipe
from fedtune.recipe.rule import Rule, check, into
from fedtune.recipe.rules_aggregation import AGGREGATION_RULES
from fedtune.recipe.rules_buffer import BUFFER_RULES
from fedtune.recipe.rules_client import CLIENT_RULES
from fedtune.recipe.rules_compression import COMPRESSION_RULES
from fedtune.recipe.rules_example import EXAMPLE_RULES
from fedtune.recipe.rules_privacy import PRIVACY_RULES
from fedtune.recipe.rules_release import RELEASE_RULES
from fedtune.recipe.rules_simulation import SIMULATION_RULES
from fedtune.recipe.rules_split import SPLIT_RULES

RULES: list[Rule] = []
"""The rules of this file, in its order; those of other files are in `ALL_RULES`."""

refuses = into(RULES)


def broken_rules(recipe: Recipe) -> list[Problem]:
    """The rules that `recipe` breaks, each with its sentence."""
    return check(ALL_RULES, recipe)


def broken_as_told(recipe: Recipe) -> list[Problem]:
    """The rules that `recipe` breaks as a client is told it (`Recipe.for_clients`).

    Without those that ask for a key which clients are not told; keys that are left out for them are at their defaults.
    """
    return [problem for problem in broken_rules(recipe) if not _UNTOLD.intersection(problem.paths)]


_UNTOLD: frozenset[Path] = frozenset({("adapter", "init_source")})
"""Keys that a rule asks for, although clients are not told them."""


# Adapter


@refuses("adapter.init", "adapter.init_source")
def _public_gradient_needs_a_source(r: Recipe) -> str | None:
    if r.adapter.init != "public-gradient" or r.adapter.init_source:
        return None
    return (
        'adapter.init = "public-gradient" needs a public data set: set adapter.init_source, or set init = "weights", '
        "which needs none"
    )


@refuses("adapter.init_source", "adapter.init")
def _source_without_public_gradient(r: Recipe) -> str | None:
    if not r.adapter.init_source or r.adapter.init == "public-gradient":
        return None
    return (
        f'adapter.init_source is read by adapter.init = "public-gradient" alone, and init is "{r.adapter.init}": set '
        "init, or take init_source out"
    )


@refuses("adapter.dropout", "adapter.kind")
def _square_with_dropout(r: Recipe) -> str | None:
    if r.adapter.kind == "lora" or not r.adapter.dropout:
        return None
    return 'adapter.dropout is for adapter.kind = "lora"; take it out, or set kind = "lora"'


@refuses("adapter.alpha", "adapter.kind")
def _square_with_alpha(r: Recipe) -> str | None:
    if r.adapter.kind == "lora" or r.adapter.alpha is None:
        return None
    return (
        f'adapter.alpha is for adapter.kind = "lora": a {r.adapter.kind} adapter is always scaled by one; take it out, '
        "and tune training.lr instead"
    )


@refuses("adapter.freeze_a", "adapter.kind")
def _freeze_a_of_another_kind(r: Recipe) -> str | None:
    if not r.adapter.freeze_a or r.adapter.kind == "lora":
        return None
    return 'adapter.freeze_a is for adapter.kind = "lora"; take it out, or set kind = "lora"'


@refuses("adapter.peft_type", "adapter.kind")
def _peft_type_of_another_kind(r: Recipe) -> str | None:
    if r.adapter.kind == "peft" and not r.adapter.peft_type:
        return 'adapter.kind = "peft" needs adapter.peft_type, a method of the peft library, for example "ia3"'
    if r.adapter.kind != "peft" and (r.adapter.peft_type or r.adapter.peft_options):
        return 'adapter.peft_type and peft_options are for adapter.kind = "peft"; take them out, or set kind = "peft"'
    return None


@refuses("adapter.prompt_tokens", "adapter.kind")
def _tokens_of_no_prompt(r: Recipe) -> str | None:
    if r.adapter.kind == "prompt" or r.adapter.prompt_tokens == AdapterSection().prompt_tokens:
        return None
    return (
        'adapter.prompt_tokens is for adapter.kind = "prompt"; take it out, or set kind = "prompt" (of a split model '
        "set split.prompt_tokens)"
    )


@refuses("adapter.init", "model.task")
def _words_of_images(r: Recipe) -> str | None:
    if r.adapter.kind != "prompt" or r.adapter.init != "weights" or r.model.task != "image-classification":
        return None
    return 'adapter.init = "weights" starts a prompt from words, and images have none; set init = "random"'


STARTS: Mapping[AdapterKind, tuple[str, ...]] = {
    "lora": ("kaiming",),
    "square": ("weights", "random", "public-gradient", "private-gradient", "dp-gradient"),
    "ravan": ("random",),
    "peft": ("random",),
    "prompt": ("random", "weights"),
    "full": ("weights",),
}
UNLIKE: tuple[AdapterKind, ...] = ("peft", "prompt", "full")
"""Kinds that nobody is told to choose for the sake of a start."""


@refuses("adapter.init", "adapter.kind")
def _start_of_another_kind(r: Recipe) -> str | None:
    known = STARTS[r.adapter.kind]
    if r.adapter.init in known:
        return None
    others = [kind for kind, starts in STARTS.items() if r.adapter.init in starts and kind not in UNLIKE]
    return (
        f'adapter.kind = "{r.adapter.kind}" does not start by init = "{r.adapter.init}"; set init to '
        f"{' or '.join(map(as_toml, known))}, or kind = {' or '.join(map(as_toml, others))}"
    )


@refuses("adapter.targets", "adapter.kind")
def _targets_of_everything(r: Recipe) -> str | None:
    if r.adapter.kind not in ("full", "prompt") or r.adapter.targets == "all-linear":
        return None
    trained = "the weights themselves" if r.adapter.kind == "full" else "vectors among the tokens"
    return (
        f'adapter.targets says to which layers small tensors are added, and adapter.kind = "{r.adapter.kind}" trains '
        f'{trained}; take targets out, or set kind = "lora" or "square"'
    )


@refuses("adapter.kind", "model.quantization")
def _training_of_four_bits(r: Recipe) -> str | None:
    if r.adapter.kind != "full" or r.model.quantization == "none":
        return None
    return (
        'adapter.kind = "full" trains the weights, and 4-bit weights cannot be trained; set model.quantization = '
        '"none", or kind = "lora" or "square"'
    )


@refuses("adapter.targets")
def _no_targets(r: Recipe) -> str | None:
    return None if r.adapter.targets else 'adapter.targets names no module; leave it out for "all-linear"'


# Model and data


@refuses("model.labels", "model.task")
def _labels_of_a_language_model(r: Recipe) -> str | None:
    if r.model.task != "causal-lm" or not r.model.labels:
        return None
    return 'model.task = "causal-lm" has no classes; take model.labels out, or set task = "sequence-classification"'


@refuses("model.labels")
def _labels_twice(r: Recipe) -> str | None:
    twice = sorted({label for label in r.model.labels if r.model.labels.count(label) > 1})
    if not twice:
        return None
    return f"model.labels names {', '.join(map(as_toml, twice))} more than once; write each class once"


@refuses("model.labels")
def _one_label(r: Recipe) -> str | None:
    if len(r.model.labels) != 1:
        return None
    return f"model.labels has {as_toml(r.model.labels[0])} alone, and there is nothing to tell apart; name two or more"


@refuses("data.partition.scheme", "data.partition.column")
def _partition_without_column(r: Recipe) -> str | None:
    partition = r.data.partition
    if partition.column or not (partition.scheme == "natural" or _skews_no_labels(r)):
        return None
    return (
        f'partition.scheme = "{partition.scheme}" needs data.partition.column, the column whose values it follows'
        + (' (a hospital, an author, …); or set scheme = "iid"' if partition.scheme == "natural" else "")
        + (', for "causal-lm" has no labels; or set scheme = "iid"' if _skews_no_labels(r) else "")
    )


def _skews_no_labels(r: Recipe) -> bool:
    return r.model.task == "causal-lm" and r.data.partition.scheme in ("dirichlet", "pathological")


@refuses("data.partition.classes_per_client", "model.labels")
def _more_classes_than_there_are(r: Recipe) -> str | None:
    wanted, known = r.data.partition.classes_per_client, len(r.model.labels)
    if r.data.partition.scheme != "pathological" or r.data.partition.column or not known or wanted <= known:
        return None
    return f"data.partition.classes_per_client is {wanted}, and model.labels has {known} classes; set at most {known}"


# Training


@refuses("training.steps", "training.epochs")
def _steps_and_epochs(r: Recipe) -> str | None:
    if r.training.steps is None or "epochs" not in r.training.model_fields_set:
        return None
    return "training.steps and training.epochs both say how long a client trains; keep one of them"


@refuses("training.warmup_fraction", "training.steps")
def _warmup_of_no_steps(r: Recipe) -> str | None:
    if not r.training.warmup_fraction or r.training.steps is None or r.training.steps > 1:
        return None
    return (
        f"training.warmup_fraction has no room in training.steps = {r.training.steps}: the rate starts anew each "
        "round; take more steps, or no warm-up"
    )


@refuses("training.momentum", "training.optimizer")
def _momentum_of_adamw(r: Recipe) -> str | None:
    if not r.training.momentum or r.training.optimizer == "sgd":
        return None
    return 'training.momentum is for optimizer = "sgd"; take it out (AdamW has its own), or set optimizer = "sgd"'


# Federation


@refuses("federation.min_replies", "federation.clients_per_round")
def _more_replies_than_asked(r: Recipe) -> str | None:
    least, asked = r.federation.min_replies, r.federation.clients_per_round
    if not asked or least <= asked:
        return None
    return (
        f"federation.min_replies = {least} is more than clients_per_round = {asked}, so no round would ever count; "
        "lower the one or raise the other"
    )


@refuses("federation.over_select", "federation.clients_per_round")
def _over_select_everybody(r: Recipe) -> str | None:
    if not r.federation.over_select or r.federation.clients_per_round:
        return None
    return (
        "federation.over_select has nobody more to ask where clients_per_round = 0 asks every client; "
        "set clients_per_round, or take over_select out"
    )


@refuses("federation.evaluate_clients", "data.holdout_fraction")
def _evaluate_without_rows(r: Recipe) -> str | None:
    if not r.federation.evaluate_clients or r.data.holdout_fraction:
        return None
    return (
        "federation.evaluate_clients asks clients to score rows that none of them keeps; set data.holdout_fraction, "
        "for example 0.1, or take evaluate_clients out"
    )


@refuses("federation.early_stop", "federation.evaluate_every")
def _early_stop_unseen(r: Recipe) -> str | None:
    if not r.federation.early_stop or r.federation.evaluate_every:
        return None
    return (
        "federation.early_stop compares evaluations, and evaluate_every = 0 makes none between the first and the last "
        "round; set evaluate_every = 1, or take early_stop out"
    )


@refuses("federation.early_stop", "data.test_fraction", "data.holdout_fraction")
def _early_stop_unscored(r: Recipe) -> str | None:
    central = r.data.test_source or (r.data.source and r.data.test_fraction)
    if not r.federation.early_stop or central or r.data.holdout_fraction:
        return None
    return (
        "federation.early_stop needs rows to evaluate on, and the recipe keeps none; set data.test_source, "
        "data.test_fraction (with data.source) or data.holdout_fraction, or take early_stop out"
    )


ALL_RULES = (
    *RULES,
    *AGGREGATION_RULES,
    *COMPRESSION_RULES,
    *PRIVACY_RULES,
    *EXAMPLE_RULES,
    *CLIENT_RULES,
    *SPLIT_RULES,
    *RELEASE_RULES,
    *SIMULATION_RULES,
    *BUFFER_RULES,
)
"""Every rule of every file."""
