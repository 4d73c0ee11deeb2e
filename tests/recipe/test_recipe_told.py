"""A recipe as clients are told it: what keeps the rules at the coordinator keeps them there too."""

import test_recipe_privacy_rules as private
import test_recipe_rules as plain
from hypothesis import given, settings

from fedtune.recipe import Recipe
from fedtune.recipe.load import read_recipe
from fedtune.recipe.methods import METHODS
from fedtune.recipe.ready import ready_recipes
from fedtune.recipe.rules import broken_as_told, broken_rules
from tests.strategies import recipes


def said(recipe: Recipe) -> list[str]:
    """What a client would have against a coordinator's recipe."""
    return [problem.sentence for problem in broken_as_told(Recipe.from_coordinator(recipe.for_clients()))]


def test_ready_recipes_and_methods_are_sound_for_their_clients() -> None:
    for name in ready_recipes():
        assert said(read_recipe(name).recipe) == []
    for method in METHODS:
        assert said(plain.load([f'method="{method}"', "data.holdout_fraction=0.25"]).recipe) == []


def test_private_recipes_and_every_way_out_of_a_broken_rule_are_sound_for_clients() -> None:
    bases = [{}, private.EXAMPLE, private.CLIENT, private.LOCAL, private.BANDED]
    assert [said(private.load(base).recipe) for base in bases] == [[]] * 5
    for sound, broken, _, mended in private.MIXES.values():
        taken_back = dict.fromkeys(broken, private.OPEN) | {k: v for k, v in sound.items() if k in broken}
        assert said(private.load(sound, broken, mended or taken_back).recipe) == []
    for written, _, mends in plain.MIXES.values():
        if mends:
            assert said(plain.load(written, mends).recipe) == []


@settings(max_examples=20)
@given(recipes())
def test_any_recipe_that_keeps_the_rules_keeps_them_as_it_is_told(recipe: Recipe) -> None:
    assert broken_rules(recipe) == []
    assert said(recipe) == []
