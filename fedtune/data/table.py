"""The tables of a recipe: what clients learn from, and what the coordinator tests on; read once a process."""

from dataclasses import dataclass
from functools import lru_cache

import datasets

from fedtune.data.encode import encode
from fedtune.data.labels import labels_of
from fedtune.data.rows import EncodedRows
from fedtune.data.source import load_table
from fedtune.data.split import split
from fedtune.errors import DataError, RecipeError
from fedtune.models.base import LoadedModel
from fedtune.recipe import DataSection, ModelSection, Recipe


@dataclass(frozen=True, slots=True)
class Tables:
    """The rows of `data.source`, divided."""

    train: datasets.Dataset
    """What simulated clients share among them."""
    test: datasets.Dataset | None
    """The central test set, where the recipe keeps one."""


@lru_cache(maxsize=1)
def tables(data: DataSection, model: ModelSection, seed: int) -> Tables:
    """Read `data.source` (and `data.test_source`); raises DataError."""
    table = load_table(data, model=model, seed=seed)
    if data.test_source:
        return Tables(table, load_table(data.model_copy(update={"source": data.test_source}), model=model, seed=seed))
    train, test = split(table, data.test_fraction, seed=seed)
    return Tables(train, test if len(test) else None)


def with_labels(recipe: Recipe) -> Recipe:
    """The recipe with `model.labels` read from its data where they were left open; raises RecipeError without data."""
    if recipe.model.task == "causal-lm" or recipe.model.labels:
        return recipe
    if not recipe.data.source:
        raise RecipeError("model.labels is not set and there is no data.source to read them from; list the classes")
    read = tables(recipe.data, recipe.model, recipe.run.seed)
    labels = labels_of(read.train if read.test is None else datasets.concatenate_datasets([read.train, read.test]))
    return recipe.model_copy(update={"model": recipe.model.model_copy(update={"labels": labels})})


def central_rows(recipe: Recipe, loaded: LoadedModel) -> EncodedRows | None:
    """The coordinator's test rows, encoded; None where the recipe names no data or keeps no test set."""
    if not recipe.data.source and not recipe.data.test_source:
        return None
    if not recipe.data.source:
        section = recipe.data.model_copy(update={"source": recipe.data.test_source})
        return encode(load_table(section, model=recipe.model, seed=recipe.run.seed), loaded, recipe.model)
    test = tables(recipe.data, recipe.model, recipe.run.seed).test
    return None if test is None else encode(test, loaded, recipe.model)


def public_rows(recipe: Recipe, loaded: LoadedModel) -> EncodedRows:
    """The public set of `adapter.init_source`, encoded; raises DataError where it is missing."""
    if not recipe.adapter.init_source:
        raise DataError("adapter.init = 'public-gradient' needs adapter.init_source, a public data set")
    section = recipe.data.model_copy(update={"source": recipe.adapter.init_source})
    return encode(load_table(section, model=recipe.model, seed=recipe.run.seed), loaded, recipe.model)
