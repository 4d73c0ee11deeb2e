"""Methods: a published name settles open keys, contradictions are refused, and what follows from a kind is filled."""

import pytest

from fedtune.errors import RecipeError
from fedtune.recipe.load import Loaded, parse_recipe


def load(*lines: str) -> Loaded:
    return parse_recipe("\n".join(('model.name = "minilm"', *lines)), name="m.toml")


@pytest.mark.parametrize(
    ("method", "kind", "init", "scheme"),
    [
        ("fed-sb", "square", "weights", "mean"),
        ("lora-sb", "square", "private-gradient", "mean"),
        ("lora-xs", "square", "weights", "mean"),
        ("fedit", "lora", "kaiming", "mean"),
        ("ffa-lora", "lora", "kaiming", "mean"),
        ("rolora", "lora", "kaiming", "rolora"),
        ("fedex-lora", "lora", "kaiming", "fedex"),
        ("flora", "lora", "kaiming", "flora"),
        ("flexlora", "lora", "kaiming", "flexlora"),
        ("hetlora", "lora", "kaiming", "hetlora"),
        ("lora-fair", "lora", "kaiming", "lora-fair"),
        ("florist", "lora", "kaiming", "florist"),
        ("fedrot-lora", "lora", "kaiming", "fedrot"),
        ("fedsvd", "lora", "kaiming", "fedsvd"),
        ("ravan", "ravan", "random", "mean"),
        ("sfprompt", "full", "weights", "mean"),
    ],
)
def test_a_method_fills_what_the_recipe_leaves_open(method: str, kind: str, init: str, scheme: str) -> None:
    loaded = load(f'method = "{method}"')
    assert (loaded.recipe.adapter.kind, loaded.recipe.adapter.init) == (kind, init)
    assert loaded.recipe.aggregation.scheme == scheme
    assert loaded.recipe.adapter.freeze_a == (method == "ffa-lora")
    assert loaded.filled[("adapter", "init")] == f'method "{method}"'


def test_a_recipe_may_choose_among_the_starts_that_agree_with_its_method() -> None:
    loaded = load('method = "fed-sb"', 'adapter.init = "random"')
    assert loaded.recipe.adapter.init == "random"
    assert ("adapter", "init") not in loaded.filled


def test_a_contradiction_names_the_method_and_the_key_and_both_lines() -> None:
    with pytest.raises(RecipeError) as caught:
        load('method = "fedit"', "", 'adapter.kind = "square"')
    assert str(caught.value).startswith("m.toml, lines 2 and 4: ")
    assert 'method = "fedit" means adapter.kind = "lora", but the recipe says "square"' in str(caught.value)


def test_sfprompt_splits_the_model_and_each_of_its_phases_has_a_switch() -> None:
    loaded = load('method = "sfprompt"')
    split = loaded.recipe.split
    assert split.active
    assert loaded.recipe.adapter.kind == "full"
    assert (split.head_layers, split.tail_layers, split.prompt_tokens) == (1, 1, 5)
    assert (split.local_epochs, split.keep) == (1, 0.5)
    assert loaded.filled[("split", "keep")] == 'method "sfprompt"'
    ablated = load('method = "sfprompt"', "split.local_epochs = 0", "split.keep = 1.0", "split.prompt_tokens = 0")
    assert not ablated.recipe.split.local_epochs
    assert not ablated.recipe.split.prompt_tokens
    assert ablated.recipe.split.keep == 1.0


def test_sfprompt_without_a_split_is_a_contradiction() -> None:
    with pytest.raises(RecipeError, match=r'means split\.head_layers = 1, but the recipe says "none"'):
        load('method = "sfprompt"', 'split.head_layers = "none"')


def test_an_unknown_method_is_refused_with_the_nearest() -> None:
    with pytest.raises(RecipeError, match="did you mean 'fed-sb'"):
        load('method = "fedsb"')


def test_plain_lora_starts_as_lora_does() -> None:
    loaded = load('adapter.kind = "lora"')
    assert loaded.recipe.adapter.init == "kaiming"
    assert ("adapter", "init") in loaded.filled


def test_a_language_model_has_no_head() -> None:
    assert not load('model.task = "causal-lm"').recipe.adapter.head
