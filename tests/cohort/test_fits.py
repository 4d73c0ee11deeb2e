"""Who can share passes, and what is said where clients take turns, who then end as they always did."""

from pathlib import Path
from typing import Any

import pytest
from torch import nn

from fedtune.cohort.fits import fits
from fedtune.cohort.step import CohortStep
from fedtune.state import digest
from fedtune.training.sequential import SequentialStep
from tests.cohort.adapted import set_dropout
from tests.cohort.cohorts import build, client, with_training
from tests.training.parts import tiny_resident


def test_images_from_which_a_model_drops_make_clients_take_turns(request: pytest.FixtureRequest) -> None:
    home = with_training(build(request, "vit", "square"), batch_size=2)
    set_dropout(home.attached.model, 0.1)
    step = CohortStep(home)
    assert "the rows are images; set model.dropout = 0" in str(step.turns)
    cohort = [client(home, "vit", number, 3 + number) for number in range(3)]
    expected = [digest(one.state) for one in SequentialStep(home).train(cohort)]
    assert [digest(one.state) for one in step.train(cohort)] == expected


def test_ways_to_drop_that_are_not_known_make_clients_take_turns(request: pytest.FixtureRequest) -> None:
    several = build(request, "bert", "square")
    several.attached.model.add_module("drop", nn.Dropout1d(0.5))
    assert "drop drops numbers at random, several together" in str(fits(several))
    unknown = build(request, "llama", "square")
    unknown.attached.model.config.model_type = "another"
    set_dropout(unknown.attached.model, 0.1)
    assert "numbers are dropped at random, and fedtune does not know where" in str(fits(unknown))


def test_texts_from_which_a_model_or_an_adapter_drops_are_no_obstacle(request: pytest.FixtureRequest) -> None:
    home = build(request, "bert", "square")
    set_dropout(home.attached.model, 0.1)
    assert fits(home) is None
    assert fits(build(request, "llama", "lora", dropout=0.1)) is None


def test_adapters_without_a_counterpart_make_clients_take_turns(tiny_vit_folder: Path) -> None:
    assert "is in no layer" in str(fits(tiny_resident(tiny_vit_folder, "image-classification")))


@pytest.mark.parametrize(
    ("training", "said"),
    [({"gradient_checkpointing": True}, "gradient_checkpointing"), ({"compile": True}, "compile"), ({}, "None")],
)
def test_what_a_recipe_says_of_training_counts(
    request: pytest.FixtureRequest, training: dict[str, Any], said: str
) -> None:
    assert said in str(fits(with_training(build(request, "vit", "square"), **training)))


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda model: setattr(model.config, "problem_type", "regression"), "problem_type"),
        (lambda model: setattr(model.config, "attention_dropout_of_some_kind", 0.2), "dropout_of_some_kind is 0.2"),
        (lambda model: model.add_module("norm", nn.BatchNorm1d(3)), "norm is a batch norm"),
    ],
)
def test_what_a_model_is_counts(request: pytest.FixtureRequest, change: Any, said: str) -> None:
    home = build(request, "vit", "square")
    change(home.attached.model)
    assert said in str(fits(home))


def test_a_frozen_a_is_no_obstacle(request: pytest.FixtureRequest) -> None:
    assert fits(build(request, "llama", "lora", freeze_a=True)) is None
