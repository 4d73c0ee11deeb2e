"""A small federated world that tests share: a tiny model, rows that can be learned, a recipe over both."""

import json
import random
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from fedtune.adapters.base import Products
from fedtune.adapters.slots import Axes
from fedtune.aggregation import Frame
from fedtune.errors import AdapterError
from fedtune.recipe import Recipe
from fedtune.recipe.adapter import AdapterForm
from fedtune.state import State, shapes_of

GOOD, BAD = ("good", "warm", "free", "truly"), ("bad", "dull", "long", "far")
FILLER = ("the", "film", "is", "a", "meeting", "and", "what", "with")


def write_rows(path: Path, count: int, *, seed: int = 0) -> Path:
    """`count` rows of {text, label} as JSONL; one word decides the label."""
    draw = random.Random(seed)
    rows = []
    for position in range(count):
        label = ("negative", "positive")[position % 2]
        words = [draw.choice(FILLER) for _ in range(draw.randint(2, 9))] + [draw.choice(GOOD if position % 2 else BAD)]
        rows.append({"text": " ".join(words), "label": label})
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def tiny_recipe(model: Path, rows: Path | str, folder: Path, **sections: dict[str, Any]) -> Recipe:
    """Four clients, three rounds, a square adapter of rank 4 with the head; `sections` change any key."""
    base: dict[str, dict[str, Any]] = {
        "model": {"name": str(model), "labels": ["negative", "positive"], "max_length": 16},
        "data": {"source": str(rows), "test_fraction": 0.25, "partition": {"clients": 4}},
        "adapter": {"rank": 4, "targets": "attention"},
        "training": {"batch_size": 4, "lr": 0.01, "device": "cpu"},
        "federation": {"rounds": 3},
        "run": {"folder": str(folder), "tensorboard": False},
    }
    for name, values in sections.items():
        base[name] = {**base.get(name, {}), **values}
    return Recipe.model_validate_json(json.dumps(base))


def frame_for(state: State, *, form: AdapterForm = "square", axes: Axes | None = None, slots: int = 0) -> Frame:
    """What an aggregator knows of an adapter that has the tensors of `state` and no model around it."""

    def no_products(_: State) -> Products:
        raise AdapterError("this adapter is tensors alone")

    return Frame(
        form=form,
        shapes=shapes_of(state),
        axes=axes or {},
        slots=slots,
        modules={},
        scale=1.0,
        seed=0,
        products=no_products,
    )


@contextmanager
def each_alone() -> Iterator[None]:
    """Virtual clients are handed out one by one, as deployed ones work: beside others their last digits differ."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("simulations.groups.cores", lambda: 64)
        yield
