"""Rules between sections: each mix is refused on its line with its reason and a way out; its neighbours load."""

import pytest

from fedtune.errors import RecipeError
from fedtune.recipe.advice import ADVICE
from fedtune.recipe.load import Loaded, parse_recipe
from fedtune.recipe.rules import RULES
from fedtune.recipe.rules_aggregation import AGGREGATION_RULES
from fedtune.recipe.rules_compression import COMPRESSION_RULES

MIXES: dict[str, tuple[list[str], str, list[str]]] = {
    # rule: (what breaks it, a part of the sentence, what mends it)
    "_public_gradient_needs_a_source": (
        ['adapter.init="public-gradient"'],
        "needs a public data set",
        ["adapter.init_source=tweets"],
    ),
    "_source_without_public_gradient": (
        ['adapter.init_source="tweets"'],
        "is read by",
        ["adapter.init=public-gradient"],
    ),
    "_square_with_dropout": (["adapter.dropout=0.1"], "take it out", ["adapter.kind=lora"]),
    "_square_with_alpha": (["adapter.alpha=32"], "scaled by one", ["adapter.kind=lora"]),
    "_start_of_another_kind": (
        ['adapter.kind="lora"', 'adapter.init="weights"'],
        'set init to "kaiming"',
        ["adapter.init=kaiming"],
    ),
    "_no_targets": (["adapter.targets=[]"], "names no module", ["adapter.targets=['query']"]),
    "_labels_of_a_language_model": (
        ['model.task="causal-lm"', 'model.labels=["a", "b"]'],
        "has no classes",
        ["model.task=sequence-classification"],
    ),
    "_labels_twice": (['model.labels=["a", "b", "a"]'], '"a" more than once', ['model.labels=["a", "b"]']),
    "_one_label": (['model.labels=["a"]'], "nothing to tell apart", ['model.labels=["a", "b"]']),
    "_partition_without_column": (
        ['data.partition.scheme="natural"'],
        "needs data.partition.column",
        ["data.partition.column=author"],
    ),
    "_more_classes_than_there_are": (
        ['data.partition.scheme="pathological"', 'model.labels=["a", "b"]', "data.partition.classes_per_client=3"],
        "set at most 2",
        ["data.partition.classes_per_client=2"],
    ),
    "_steps_and_epochs": (["training.steps=5", "training.epochs=1"], "keep one of them", []),
    "_warmup_of_no_steps": (["training.steps=1", "training.warmup_fraction=0.5"], "no warm-up", ["training.steps=2"]),
    "_momentum_of_adamw": (["training.momentum=0.9"], 'optimizer = "sgd"', ["training.optimizer=sgd"]),
    "_upload_out_of_order": (
        ['compression.upload=["fp16", "bf16"]'],
        'keep one of "fp16" and "bf16"',
        ['compression.upload=["bf16"]'],
    ),
    "_download_out_of_order": (
        ['compression.download=["entropy", "ternary"]'],
        "that no stage made",
        ['compression.download=["ternary", "entropy"]'],
    ),
    "_feedback_for_an_adapter_that_restarts": (
        ['method="flora"', 'compression.feedback="classic"'],
        "new coordinates each round",
        ["compression.feedback=none"],
    ),
    "_feedback_that_would_grow": (
        ['compression.upload=["random-k"]', 'compression.feedback="classic"'],
        "would grow without bound",
        ["compression.feedback=none"],
    ),
    "_download_that_would_grow": (
        ['compression.download=["random-k"]'],
        "would multiply each round",
        ['compression.download=["top-k"]'],
    ),
    "_copies_of_different_ranks": (
        ['compression.feedback="ef21"', 'federation.ranks=["a=2"]'],
        "a copy of the whole update",
        ["compression.feedback=classic"],
    ),
    "_steps_for_different_ranks": (
        ['compression.download=["bf16"]', 'federation.ranks=["a=2"]'],
        "the same step of one state",
        ["compression.download=[]"],
    ),
    "_more_replies_than_asked": (
        ["federation.min_replies=5", "federation.clients_per_round=4"],
        "no round would ever count",
        ["federation.clients_per_round=0"],
    ),
    "_over_select_everybody": (
        ["federation.over_select=0.5"],
        "set clients_per_round",
        ["federation.clients_per_round=4"],
    ),
    "_evaluate_without_rows": (
        ["federation.evaluate_clients=2"],
        "set data.holdout_fraction",
        ["data.holdout_fraction=0.1"],
    ),
    "_early_stop_unseen": (
        ["federation.early_stop=2", "federation.evaluate_every=0"],
        "set evaluate_every = 1",
        ["federation.evaluate_every=1"],
    ),
    "_targets_of_everything": (
        ['adapter.kind="full"', 'adapter.targets="attention"'],
        "trains the weights themselves",
        ["adapter.kind=square"],
    ),
    "_training_of_four_bits": (
        ['adapter.kind="full"', 'model.quantization="nf4"'],
        "cannot be trained",
        ["model.quantization=none"],
    ),
    "_freeze_a_of_another_kind": (["adapter.freeze_a=true"], "is for adapter.kind", ["adapter.kind=lora"]),
    "_peft_type_of_another_kind": (['adapter.peft_type="ia3"'], "take them out", ["adapter.kind=peft"]),
    "_tokens_of_no_prompt": (["adapter.prompt_tokens=5"], 'is for adapter.kind = "prompt"', ["adapter.kind=prompt"]),
    "_words_of_images": (
        ['adapter.kind="prompt"', 'adapter.init="weights"', 'model.task="image-classification"'],
        "images have none",
        ["adapter.init=random"],
    ),
    "_scheme_of_another_kind": (['aggregation.scheme="fedex"'], "serves every kind", ["adapter.kind=lora"]),
    "_shift_of_a_quantised_base": (
        ['method="flora"', 'model.quantization="nf4"'],
        "cannot take it up",
        ["model.quantization=none"],
    ),
    "_own_adapters_unscored": (
        ['adapter.kind="lora"', 'aggregation.scheme="fedsa"'],
        "an adapter of its own",
        ["data.holdout_fraction=0.2"],
    ),
    "_rule_of_another_scheme": (
        ['method="flexlora"', 'aggregation.rule="median"'],
        "does more than average",
        ["aggregation.rule=mean"],
    ),
    "_before_no_rule": (['aggregation.before_rule=["nnm"]'], "prepares updates", ["aggregation.rule=krum"]),
    "_buckets_of_poison": (
        [
            'aggregation.rule="median"',
            'aggregation.before_rule=["bucketing"]',
            "aggregation.attackers=0.3",
            "aggregation.bucket_size=2",
        ],
        "could put poison into half",
        ["aggregation.attackers=0.2"],
    ),
    "_rule_with_scaffold": (
        ["training.scaffold=true", 'aggregation.rule="median"'],
        "one attacker moves them all",
        ["aggregation.rule=mean"],
    ),
    "_server_optimizer_of_another_scheme": (
        ['method="rolora"', 'aggregation.server_optimizer="adam"'],
        "steps along the mean delta",
        ["aggregation.server_optimizer=none"],
    ),
    "_ranks_that_must_be_alike": (
        ['method="fedit"', 'federation.ranks=["a=2"]'],
        "needs the same everywhere",
        ["federation.ranks=[]"],
    ),
    "_rank_above_the_adapters": (
        ["adapter.rank=4", 'federation.ranks=["a=8"]'],
        "more than adapter.rank = 4",
        ["adapter.rank=8"],
    ),
    "_ranks_with_scaffold": (
        ["training.scaffold=true", 'federation.ranks=["a=2"]'],
        "one control variate of the whole adapter",
        ["federation.ranks=[]"],
    ),
    "_ranks_with_a_rule": (
        ['aggregation.rule="median"', 'federation.ranks=["a=2"]'],
        "compares whole updates",
        ["federation.ranks=[]"],
    ),
    "_prune_of_another_scheme": (["aggregation.prune=0.5"], 'is for scheme = "hetlora"', ["aggregation.prune=0"]),
    "_scaffold_of_another_scheme": (
        ['method="fedsvd"', "training.scaffold=true"],
        'is for aggregation.scheme = "mean"',
        ["training.scaffold=false"],
    ),
    "_scaffold_of_another_optimizer": (
        ["training.scaffold=true", 'training.optimizer="adamw"'],
        "must be plain ones",
        ["training.optimizer=sgd"],
    ),
    "_scaffold_of_scaled_heads": (
        ["training.scaffold=true", 'adapter.kind="ravan"'],
        "would not be gradients",
        ["adapter.kind=square", "adapter.init=weights"],
    ),
    "_soup_into_a_quantised_base": (
        ['model.quantization="nf4"', 'run.soup="uniform"', "run.keep_checkpoints=5", 'adapter.kind="lora"'],
        "adds the mean product",
        ["model.quantization=none"],
    ),
    "_soup_of_too_few": (['run.soup="uniform"'], "set run.keep_checkpoints", ["run.keep_checkpoints=5"]),
    "_soup_of_own_adapters": (
        ['method="fedsa-lora"', "data.holdout_fraction=0.2", 'run.soup="uniform"', "run.keep_checkpoints=5"],
        "has none",
        ["run.soup=none"],
    ),
    "_greedy_soup_unscored": (
        ['run.soup="greedy"', "run.keep_checkpoints=5", "data.test_fraction=0"],
        "scores soups",
        ["run.soup=uniform"],
    ),
    "_early_stop_unscored": (
        ["federation.early_stop=2", "data.test_fraction=0"],
        "needs rows to evaluate on",
        ["data.holdout_fraction=0.1"],
    ),
}

TIPS = {
    "_four_bits_on_a_cpu": (["model.quantization=nf4", "training.device=cpu"], "needs a CUDA GPU"),
    "_private_gradients_travel": (["adapter.init=private-gradient"], "upload a whole gradient"),
    "_scaffold_counts_every_client_alike": (["training.scaffold=true"], "every client alike"),
    "_noise_on_activations_alone": (
        ["split.head_layers=1", "split.noise_multiplier=1", "split.delta=1e-5"],
        "and nothing else",
    ),
    "_head_of_a_language_model": (["model.task=causal-lm", "adapter.head=true"], "has no effect"),
}


def load(written: list[str], overrides: list[str] = []) -> Loaded:  # noqa: B006
    text = 'model.name = "minilm"\ndata.source = "movie-reviews"\n' + "".join(f"{line}\n" for line in written)
    return parse_recipe(text, overrides, name="mix.toml")


def test_every_rule_and_every_advice_is_tried_here() -> None:
    assert set(MIXES) == {rule.name for rule in (*RULES, *AGGREGATION_RULES, *COMPRESSION_RULES)}
    assert set(TIPS) == {rule.name for rule in ADVICE}


@pytest.mark.parametrize("name", MIXES)
def test_a_broken_rule_names_its_lines_its_reason_and_a_way_out(name: str) -> None:
    written, expected, _ = MIXES[name]
    with pytest.raises(RecipeError) as caught:
        load(written)
    said = [line for line in str(caught.value).splitlines() if expected in line]
    assert len(said) == 1
    assert said[0].startswith("mix.toml, line")
    assert int(said[0].removeprefix("mix.toml, lines ").removeprefix("mix.toml, line ")[0]) >= 3


@pytest.mark.parametrize("name", [name for name, (_, _, mended) in MIXES.items() if mended])
def test_the_way_out_leads_out(name: str) -> None:
    written, _, mended = MIXES[name]
    load(written, mended)


@pytest.mark.parametrize("name", TIPS)
def test_advice_is_given_and_the_recipe_loads(name: str) -> None:
    written, expected = TIPS[name]
    (said,) = load([], written).advice
    assert expected in said


@pytest.mark.parametrize(
    "written",
    [
        ["federation.min_clients=2", "federation.min_replies=3"],
        ["training.steps=5"],
        ["training.epochs=5"],
        ['model.task="causal-lm"'],
        ['adapter.kind="lora"', "adapter.alpha=32", "adapter.dropout=0.1"],
        ['aggregation.weights="capped"'],
    ],
)
def test_sound_mixes_load_without_a_word(written: list[str]) -> None:
    assert load(written).advice == ()


def test_several_broken_rules_are_said_at_once() -> None:
    with pytest.raises(RecipeError) as caught:
        load(["adapter.alpha=3", "training.momentum=0.9", "federation.over_select=1"])
    assert [line.split(":")[0] for line in str(caught.value).splitlines()] == [
        f"mix.toml, line {line}" for line in (3, 4, 5)
    ]


@pytest.mark.parametrize(
    ("stages", "expected"),
    [
        ('["ternary", "ternary"]', "names a stage twice"),
        ('["ternary", "entropy", "rice"]', "codes twice"),
        ('["top-k", "random-k"]', "drops twice"),
        ('["ternary", "int8"]', "quantises twice"),
        ('["top-k", "int8", "rice"]', "more than three values"),
        ('["int4", "bitmask"]', "more than three values"),
        ('["ternary", "entropy", "bf16"]', "after a coder"),
        ('["bf16", "ternary"]', "nothing to work on"),
        ('["top-k", "rotate"]', "put it first"),
    ],
)
def test_stages_out_of_order_are_refused_with_the_reason(stages: str, expected: str) -> None:
    with pytest.raises(RecipeError, match=expected):
        load([f"compression.upload={stages}"])


@pytest.mark.parametrize(
    "stages",
    [
        '["ternary", "entropy"]',
        '["rotate", "int8", "entropy"]',
        '["top-k", "fp16", "rice"]',
        '["low-rank", "nf4"]',
        "[]",
    ],
)
def test_stages_that_work_together_load(stages: str) -> None:
    assert load([f"compression.upload={stages}"]).recipe.compression.upload is not None
