"""What is written as TOML is read back as the same recipe, and what `init` writes loads."""

import tomllib

import pytest
from hypothesis import given, settings

from fedtune.recipe import Recipe
from fedtune.recipe.dump import dump, value_at
from fedtune.recipe.keys import dotted, field_at, leaf_keys
from fedtune.recipe.load import parse_recipe
from fedtune.recipe.template import SHOWN, STARTS, TASKS, template
from tests.strategies import recipes


@settings(max_examples=60, deadline=None)
@given(recipes())
def test_a_written_recipe_loads_as_the_same(recipe: Recipe) -> None:
    loaded = parse_recipe(dump(recipe))
    assert loaded.recipe == recipe
    assert loaded.recipe.fingerprint() == recipe.fingerprint()
    assert not loaded.filled, "everything is written, so nothing is left to fill"


@settings(max_examples=20, deadline=None)
@given(recipes())
def test_writing_is_stable(recipe: Recipe) -> None:
    once = dump(recipe)
    assert dump(parse_recipe(once).recipe) == once


def test_every_key_is_written_below_what_it_means() -> None:
    text = dump(parse_recipe('model.name = "minilm"').recipe)
    written = tomllib.loads(text)
    for path in leaf_keys():
        table = written
        for part in path[:-1]:
            table = table[str(part)]
        assert path[-1] in table, dotted(path)
        field = field_at(path)
        assert field is not None
        assert field.description, f"{dotted(path)} says nothing about itself"
        assert f"# {' '.join(field.description.split())[:40]}" in text


def test_comments_stay_within_their_width() -> None:
    assert max(len(line) for line in dump(parse_recipe('model.name = "m"').recipe).splitlines()) <= 100


@pytest.mark.parametrize("task", TASKS)
def test_a_template_loads_and_is_the_start_of_its_task(task: str) -> None:
    recipe = parse_recipe(template(task, name="mine")).recipe  # type: ignore[arg-type]
    start = STARTS[recipe.model.task]
    assert (recipe.model.task, recipe.model.name, recipe.data.source) == (task, start.model, start.data)
    assert recipe.run.name == "mine"
    assert recipe.method == "fed-sb"


def test_a_template_follows_the_model_where_no_task_is_said() -> None:
    assert parse_recipe(template(model="smollm2-135m")).recipe.model.task == "causal-lm"
    assert parse_recipe(template(model="dinov2-small")).recipe.model.task == "image-classification"
    assert parse_recipe(template(model="my/own")).recipe.model.task == "sequence-classification"


def test_a_template_takes_any_path_as_it_is() -> None:
    path = 'C:\\data\\"odd" name.csv'
    assert parse_recipe(template(data=path)).recipe.data.source == path


def test_what_a_template_comments_out_has_the_value_that_stands_there() -> None:
    text = template()
    plain = parse_recipe(text).recipe
    lines = [line.removeprefix("# ") if _is_key(line) and not _rival(line) else line for line in text.splitlines()]
    everything = parse_recipe("\n".join(lines)).recipe
    assert everything == plain
    assert sum(map(_is_key, text.splitlines())) >= len(list(leaf_keys())) - len(SHOWN) - 4


def _is_key(line: str) -> bool:
    return line.startswith("# ") and line.removeprefix("# ").split(" = ")[0].isidentifier() and " = " in line


def _rival(line: str) -> bool:
    return line.startswith("# steps =")


def test_values_are_found_by_their_path() -> None:
    recipe = parse_recipe('model.name = "minilm"\ndata.partition.clients = 7').recipe
    assert value_at(recipe, ("data", "partition", "clients")) == 7
