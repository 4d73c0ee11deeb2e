"""Ready recipes: each loads by its name without advice, names what the catalogue has, and says what it is."""

import pytest

from fedtune.catalogue import names
from fedtune.recipe.load import read_recipe
from fedtune.recipe.ready import description, ready_recipes

NAMES = {
    "movie-reviews",
    "spam-mails",
    "trivia-smollm2",
    "mnist-dinov2",
    "mnist-sfprompt",
    "movie-stragglers",
    "two-clients",
}


def test_the_ready_recipes_are_installed() -> None:
    assert set(ready_recipes()) >= NAMES


@pytest.mark.parametrize("name", sorted(NAMES))
def test_a_ready_recipe_loads_and_what_it_names_can_be_fetched(name: str) -> None:
    loaded = read_recipe(name)
    assert loaded.advice == ()
    assert loaded.recipe.run.name == name
    assert loaded.recipe.model.name in names("model")
    assert loaded.recipe.data.source in ("", *names("data"))


@pytest.mark.parametrize("name", sorted(NAMES))
def test_a_ready_recipe_teaches(name: str) -> None:
    file = ready_recipes()[name]
    assert 20 <= len(description(file)) <= 110
    lines = file.read_text(encoding="utf-8").splitlines()
    assert max(map(len, lines)) <= 120
    assert sum("#" in line for line in lines) >= 12
