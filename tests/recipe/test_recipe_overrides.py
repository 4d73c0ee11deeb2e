"""`--set KEY=VALUE`: values are TOML, bare words are texts, and mistakes name the override."""

import contextlib
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedtune.errors import RecipeError
from fedtune.recipe import Recipe
from fedtune.recipe.load import parse_recipe

TEXT = '[model]\nname = "minilm"\n[training]\nlr = 5\n'


def resolved(*overrides: str) -> Recipe:
    return parse_recipe(TEXT, overrides).recipe


@pytest.mark.parametrize(
    ("override", "section", "key", "expected"),
    [
        ("training.lr=1e-3", "training", "lr", 1e-3),
        ("training.lr=1", "training", "lr", 1.0),
        (" training.lr = 1 ", "training", "lr", 1.0),
        ("training.optimizer=sgd", "training", "optimizer", "sgd"),
        ('training.optimizer="sgd"', "training", "optimizer", "sgd"),
        ("training.compile=true", "training", "compile", True),
        ("training.max_grad_norm=none", "training", "max_grad_norm", None),
        ("model.labels=['ham', 'spam']", "model", "labels", ("ham", "spam")),
        ("adapter.targets=attention", "adapter", "targets", "attention"),
        ('adapter.targets=["query"]', "adapter", "targets", ("query",)),
        ("data.source=C:\\rows=1.csv", "data", "source", "C:\\rows=1.csv"),
        ("data.source=2024", "data", "source", "2024"),
        ("data.text=none", "data", "text", "none"),
        ("run.name=7", "run", "name", "7"),
    ],
)
def test_a_value_is_read_as_a_person_means_it(override: str, section: str, key: str, expected: Any) -> None:
    assert getattr(getattr(resolved(override), section), key) == expected


def test_the_last_override_wins_and_those_of_one_section_add_up() -> None:
    recipe = resolved("training.lr=1", "training.epochs=2", "training.lr=3", "data.partition.clients=7")
    assert (recipe.training.lr, recipe.training.epochs, recipe.data.partition.clients) == (3.0, 2, 7)


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        ("training.lrr=1", "there is no key training.lrr; did you mean 'training.lr'?"),
        ("lr=1", "did you mean 'training.lr'?"),
        ("trainin.lr=1", "did you mean 'training.lr'?"),
        ("learning_rate=1", "did you mean 'training.lr'?"),
        ("training=1", "is a section; set one of its keys"),
        ("training.lr", "write it as KEY=VALUE"),
        ("=1", "write it as KEY=VALUE"),
        ("training.lr=fast", "must be a number above 0"),
        ("training.lr=", "must be a number above 0"),
        ("training.lr=-1", "must be a number above 0, not -1"),
        ("model.labels=[ham, spam]", "quote the texts in it"),
        ("training.lr=1\nsteps=2", "must be a number above 0"),
    ],
)
def test_a_mistake_names_the_override(override: str, expected: str) -> None:
    with pytest.raises(RecipeError) as caught:
        resolved(override)
    assert str(caught.value).startswith(f"--set {override}: ")
    assert expected in str(caught.value)


def test_all_wrong_overrides_are_said_at_once() -> None:
    with pytest.raises(RecipeError) as caught:
        resolved("training.lrr=1", "nonsense", "model.labels=[a")
    assert len(str(caught.value).splitlines()) == 3


@given(st.text(max_size=40))
def test_whatever_is_set_is_a_recipe_or_a_refusal(text: str) -> None:
    for override in (text, f"training.lr={text}", f"run.name={text}", f"model.labels={text}", f"{text}=1"):
        with contextlib.suppress(RecipeError):
            assert isinstance(resolved(override), Recipe)
