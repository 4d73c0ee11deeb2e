"""Rules of noise on activations: what it does not cover is refused beside it, and the way out it names leads out."""

import pytest

from fedtune.errors import RecipeError
from fedtune.recipe.rules import ALL_RULES
from fedtune.recipe.rules_release import RELEASE_RULES
from tests.recipe.mixes import OPEN, load

NOISE = {"split.head_layers": "1", "split.noise_multiplier": "2.0", "split.delta": "1e-5"}

MIXES: list[tuple[str, dict[str, str], str, dict[str, str]]] = [
    # the rule, what breaks it, a part of the sentence, what mends it
    ("_noise_on_a_trained_head", {"split.prompt_tokens": "5"}, "split.prompt_tokens", {"split.prompt_tokens": "0"}),
    ("_noise_on_a_trained_head", {"split.train_head": "true"}, "split.train_head", {"split.train_head": "false"}),
    (
        "_noise_on_a_trained_head",
        {"split.prompt_tokens": "2", "split.prompt_at": '"cut"'},
        "go up without noise",
        {"split.noise_multiplier": "0.0", "split.delta": OPEN},
    ),
    ("_noise_beside_a_trained_body", {"split.body": '"lora"'}, "gradients", {"split.body": '"frozen"'}),
    ("_noise_on_chosen_rows", {"split.keep": "0.5"}, "by what they hold", {"split.keep": "1.0"}),
    ("_noise_without_delta", {"split.delta": OPEN}, "split.delta is required", {"split.delta": "1e-6"}),
    ("_keys_of_no_noise", {"split.noise_multiplier": "0.0"}, "split.delta is read", {"split.delta": OPEN}),
    (
        "_keys_of_no_noise",
        {"split.noise_multiplier": "0.0", "split.clip": "2.0"},
        "split.clip is read",
        {"split.noise_multiplier": "1.0"},
    ),
]


def test_every_rule_is_tried_here_and_held_everywhere() -> None:
    assert {name for name, *_ in MIXES} == {rule.name for rule in RELEASE_RULES}
    assert set(RELEASE_RULES) <= set(ALL_RULES)


def test_noise_alone_is_read_with_one_word_on_what_it_leaves_out() -> None:
    (told,) = load(NOISE).advice
    assert "activations of each row and nothing else" in str(told)


@pytest.mark.parametrize(("name", "broken", "expected", "mended"), MIXES)
def test_a_mix_that_promises_nothing_is_refused_and_can_be_mended(
    name: str, broken: dict[str, str], expected: str, mended: dict[str, str]
) -> None:
    with pytest.raises(RecipeError) as caught:
        load(NOISE, broken)
    assert sum(expected in line for line in str(caught.value).splitlines()) == 1, name
    load(NOISE, broken, mended)


def test_sfprompt_itself_takes_no_noise_and_its_switches_lead_out() -> None:
    with pytest.raises(RecipeError, match=r"prompt_tokens = 0(.|\n)*keep = 1"):
        load(NOISE, {"method": '"sfprompt"'})
    load(NOISE, {"method": '"sfprompt"', "split.prompt_tokens": "0", "split.keep": "1.0"})
