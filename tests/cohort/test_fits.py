"""Who can share passes, and what is said where clients take turns, who then end as they always did."""

from pathlib import Path
from typing import Any

import pytest
from torch import nn

from fedtune.cohort.fits import fits
from fedtune.cohort.step import CohortStep
from fedtune.recipe import AdapterSection
from fedtune.state import digest
from fedtune.training.sequential import SequentialStep
from tests.cohort.cohorts import build, with_training
from tests.training.parts import adapted_resident, assignment, text_rows, tiny_resident


def test_a_model_that_drops_numbers_makes_clients_take_turns(tiny_bert_folder: Path) -> None:
    home = adapted_resident(tiny_bert_folder, AdapterSection(rank=2), batch_size=2)
    step = CohortStep(home)
    assert "model.dropout = 0" in str(step.turns)
    cohort = [assignment(home, text_rows(3 + n, seed=n), client=f"c{n}") for n in range(3)]
    expected = [digest(one.state) for one in SequentialStep(home).train(cohort)]
    assert [digest(one.state) for one in step.train(cohort)] == expected


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
        (lambda model: model.add_module("drop", nn.Dropout(0.5)), "drop drops numbers"),
    ],
)
def test_what_a_model_is_counts(request: pytest.FixtureRequest, change: Any, said: str) -> None:
    home = build(request, "vit", "square")
    change(home.attached.model)
    assert said in str(fits(home))


def test_dropout_inside_the_adapter_counts(request: pytest.FixtureRequest) -> None:
    assert "drops numbers" in str(fits(build(request, "llama", "lora", dropout=0.1)))


def test_a_frozen_a_is_no_obstacle(request: pytest.FixtureRequest) -> None:
    assert fits(build(request, "llama", "lora", freeze_a=True)) is None
