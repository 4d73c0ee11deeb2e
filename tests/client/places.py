"""A client's workplace on a tiny model, and the tasks that a coordinator would send it."""

from dataclasses import replace
from pathlib import Path
from typing import Any

from client.bench import Bench
from client.work import Workplace
from fedtune.aggregation import Global
from fedtune.aggregation.frame import frame_of
from fedtune.audit.ledger import Offer
from fedtune.data.base import ClientData
from fedtune.data.client import client_data
from fedtune.data.encode import encode as encode_rows
from fedtune.data.source import load_table
from fedtune.recipe import Recipe
from fedtune.training.resident import resident
from fedtune.wire import Message, TaskKind, decode, encode
from server.download import Download
from server.tasking import Tasking
from tests.worlds import tiny_recipe, write_rows

PRIVATE = {"unit": "example", "delta": 1e-5, "noise_multiplier": 1.0, "sampling_rate": 0.2}


def private_recipe(model: Path, folder: Path, **sections: Any) -> Recipe:
    """DP-SGD of two steps on a tiny model; `sections` change any key."""
    base: dict[str, Any] = {
        "training": {"steps": 2, "max_grad_norm": None, "batch_size": 4, "device": "cpu"},
        "aggregation": {"weights": "uniform"},
        "data": {"holdout_fraction": 0.25},
        "privacy": PRIVATE,
    }
    for name, values in sections.items():
        base[name] = {**base.get(name, {}), **values} if values else {}
    return tiny_recipe(model, write_rows(folder / "rows.jsonl", 40), folder, **base)


class Rows:
    """One client's rows, and how often they were asked for."""

    def __init__(self, recipe: Recipe) -> None:
        self._recipe = recipe
        self.asked = 0

    def __call__(self, client: str, bench: Bench) -> ClientData:
        self.asked += 1
        recipe = self._recipe
        table = load_table(recipe.data, model=recipe.model, seed=0)
        return client_data(encode_rows(table, bench.resident.loaded, recipe.model), recipe.data, seed=0, client=client)


def ask(
    place: Workplace, recipe: Recipe, *, kind: TaskKind = "train", round_: int = 1, ledger: Offer | None = None
) -> Message:
    """What a client replies to one task."""
    home = resident(recipe)
    tasking = Tasking(recipe, "run", home, frame_of(home.attached, recipe.adapter), Download(recipe))
    task = tasking.task(kind, round_, Global(dict(home.initial)))
    return decode(place.answer("me", encode(replace(task, ledger=ledger))))
