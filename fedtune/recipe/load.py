"""Reads a recipe: text, overrides, method, types, rules; every mistake is said at once, with its line."""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path as File
from typing import Any

from pydantic import ValidationError

from fedtune.recipe.advice import advice
from fedtune.recipe.fill import fill
from fedtune.recipe.lines import Path
from fedtune.recipe.overrides import apply_overrides
from fedtune.recipe.problems import problems_of, refusal
from fedtune.recipe.ready import find_recipe
from fedtune.recipe.recipe import Recipe
from fedtune.recipe.rules import broken_rules
from fedtune.recipe.source import Source, parse_source, read_source

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Loaded:
    """A recipe with the story of its values."""

    recipe: Recipe
    source: Source
    filled: Mapping[Path, str]
    """Keys that the recipe left open, and what filled them."""
    advice: tuple[str, ...]
    """Sentences about choices that are allowed and probably not meant."""


def load_recipe(path_or_name: str, overrides: Sequence[str] = ()) -> Recipe:
    """The recipe in a TOML file, or the ready recipe of that name, with `KEY=VALUE` overrides laid over it.

    Every key of the result has its value. Raises RecipeError that lists all mistakes, one line each, with the line
    in the file or the override, what is wrong and what is allowed.
    """
    loaded = read_recipe(path_or_name, overrides)
    for sentence in loaded.advice:
        _log.warning("%s", sentence)
    return loaded.recipe


def read_recipe(path_or_name: str | File, overrides: Sequence[str] = ()) -> Loaded:
    """As `load_recipe`, with the origin of each value."""
    return resolve(read_source(find_recipe(str(path_or_name))), overrides)


def parse_recipe(text: str, overrides: Sequence[str] = (), *, name: str = "recipe.toml") -> Loaded:
    """As `read_recipe`, for a TOML text at hand that messages call `name`."""
    return resolve(parse_source(text, name), overrides)


def resolve(source: Source, overrides: Sequence[str] = ()) -> Loaded:
    """Lay the overrides over `source`, fill what is open, and check all of it; raises RecipeError."""
    source, mistakes = apply_overrides(source, overrides)
    values, filled, problems = fill(source.values)
    try:
        recipe = Recipe.model_validate(_frozen(values))
    except ValidationError as error:
        raise refusal([*problems, *problems_of(error)], source, mistakes) from error
    problems += broken_rules(recipe)
    if problems or mistakes:
        raise refusal(problems, source, mistakes)
    said = tuple(f"{source.place(*found.paths)}: {found.sentence}" for found in advice(recipe))
    return Loaded(recipe, source, filled, said)


def _frozen(value: Any) -> Any:
    """TOML's arrays as the tuples that the sections hold."""
    if isinstance(value, dict):
        return {key: _frozen(child) for key, child in value.items()}
    return tuple(map(_frozen, value)) if isinstance(value, list) else value
