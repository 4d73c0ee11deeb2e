"""Cohorts of every family and kind of adapter, and how far apart two ways of training one end."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest

from fedtune.adapters.attach import attach
from fedtune.models.base import LoadedModel
from fedtune.recipe import AdapterSection
from fedtune.training.base import Assignment, LocalResult
from fedtune.training.resident import Resident
from tests.training.parts import CPU, answer_rows, image_rows, load_plain, random_state, text_rows, tiny_recipe

STILL: dict[str, dict[str, float]] = {
    "bert": {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0},
    "vit": {},
    "llama": {},
    "gpt2": {"resid_pdrop": 0.0, "embd_pdrop": 0.0, "attn_pdrop": 0.0, "summary_first_dropout": 0.0},
}
"""What keeps a family from dropping numbers."""
TASKS = {"bert": "sequence-classification", "vit": "image-classification", "llama": "causal-lm", "gpt2": "causal-lm"}
ROWS: dict[str, Any] = {"bert": text_rows, "vit": image_rows, "llama": answer_rows, "gpt2": answer_rows}
STARTS = {"lora": "kaiming", "square": "weights", "ravan": "random", "prompt": "random"}


def build(request: pytest.FixtureRequest, family: str, kind: str, **adapter: Any) -> Resident:
    """A tiny model without dropout, in double precision, so that an optimiser does not blow roundings up."""
    task = TASKS[family]
    folder = request.getfixturevalue(f"tiny_{family}_folder")
    head = () if task == "causal-lm" else ("classifier",)
    loaded = LoadedModel(load_plain(folder, task, **STILL[family]).double(), None, "", head, str(folder))
    fields = {"kind": kind, "rank": 4, "heads": 2, "targets": "all-linear", "init": STARTS[kind], "prompt_tokens": 3}
    attached = attach(loaded, AdapterSection.model_validate(fields | adapter), task=task)
    loaded.model.double()
    return Resident.of(loaded, attached, CPU, tiny_recipe(task))


def with_training(home: Resident, **training: Any) -> Resident:
    """The same model under other options."""
    return replace(home, recipe=tiny_recipe(home.recipe.model.task, **training))


def client(home: Resident, family: str, number: int, rows: int, **fields: Any) -> Assignment:
    """One of a cohort: rows, start, seed and name of its own."""
    held = ROWS[family](rows, seed=number)
    if family == "vit":
        for row in held.examples:
            row["pixel_values"] = row["pixel_values"].double()
    return Assignment(f"c{number}", 1, random_state(home, number % 3), held, 100 + number, **fields)


def distance(left: Sequence[LocalResult], right: Sequence[LocalResult]) -> float:
    """The largest difference of any number of any client; their rates and counts must be equal."""
    assert [one.client for one in left] == [one.client for one in right]
    found = [0.0]
    for one, other in zip(left, right, strict=True):
        assert one.rates == other.rates
        assert one.examples == other.examples
        assert one.metrics.keys() == other.metrics.keys()
        assert one.metrics["steps"] == other.metrics["steps"]
        assert one.state.keys() == other.state.keys()
        found.append(abs(one.metrics.get("loss", 0.0) - other.metrics.get("loss", 0.0)))
        found += [float((one.state[name] - other.state[name]).abs().max()) for name in one.state]
    return max(found)
