"""Asynchronous runs on a virtual clock whose clients' paces are given, and what was said in them."""

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from client.work import Workplace
from fedtune.recipe import Recipe
from fedtune.runs.folder import RunFolder
from fedtune.runs.kept import Keep
from fedtune.runs.record import ClientRecord
from fedtune.state import State
from fedtune.wire import Task, Update, decode
from server.listener import Listener
from simulations.place import kept_in
from simulations.population import Population
from simulations.simulate import run_with
from tests.worlds import tiny_recipe

UNEVEN = {"scheme": "sampled", "clients": 3, "rows_per_client": 12, "rows_spread": 0.8}
PACES = {"client-0": 10, "client-1": 35, "client-2": 14}
BUFFERS = [[(0, 1), (2, 1)], [(0, 2), (2, 2)], [(0, 3), (1, 1)], [(0, 4), (2, 3)]]
"""Where two updates make a model and `PACES` are kept: of each round the clients, and the rounds that they began in.

Tasks take 10, 35 and 14 s: at 14 (0 and 2), at 28 (0 at 24, 2 at 28), at 38 (1 at 35, begun in round 1, and 0 at 38),
at 48 (2 at 42, 0 at 48).
"""


def timed_recipe(model: Path, rows: Path, folder: Path, name: str, **sections: dict[str, Any]) -> Recipe:
    """A virtual second a row; `sections` change any key."""
    base: dict[str, dict[str, Any]] = {
        "training": {"steps": 2},
        "simulation": {"rows_per_s": 1.0},
        "run": {"name": name, "folder": str(folder), "keep_checkpoints": 9},
    }
    for section, values in sections.items():
        base[section] = {**base.get(section, {}), **values}
    return tiny_recipe(model, rows, folder, **base)


class Overheard:
    """A workplace that keeps the models that it was sent and the updates that it made of them, by round and client."""

    def __init__(self, recipe: Recipe) -> None:
        self.population = Population.of(recipe)
        self._place = Workplace(self.population, keep=Keep(kept_in(recipe)))
        self.models: dict[int, State] = {}
        self.updates: dict[tuple[int, str], Update] = {}

    def answer_all(self, jobs: Sequence[tuple[str, bytes]]) -> Iterator[bytes]:
        for client, raw in jobs:
            reply = self._place.answer(client, raw)
            task, update = decode(raw), decode(reply)
            assert isinstance(task, Task)
            assert isinstance(update, Update)
            self.models[task.round] = task.state
            self.updates[task.round, client] = update
            yield reply


def run_paced(recipe: Recipe, paces: dict[str, int]) -> tuple[RunFolder, Overheard]:
    """Run with clients that take so many virtual seconds for a task, whatever their rows."""
    place = Overheard(recipe)
    path = run_with(recipe, sorted(paces), place, sizes=lambda client: (paces[client], 0))
    return RunFolder.open(path), place


def entries(folder: RunFolder) -> list[list[tuple[str, int]]]:
    """Of each round after the first state: who counted, and how stale."""
    return [[(c.client, c.staleness) for c in r.clients if c.outcome == "ok"] for r in folder.rounds()[1:]]


def lasting(path: Path) -> list[dict[str, Any]]:
    """What rounds.jsonl says, without this machine's clock."""
    lines = [json.loads(line) for line in (path / "rounds.jsonl").read_text().splitlines()]
    return [{key: value for key, value in line.items() if key not in ("finished_at", "seconds")} for line in lines]


class StopsInRound(Listener):
    """Ends a run from outside when the second reply of a round has come in."""

    def __init__(self, round_: int) -> None:
        self._last, self._round, self._replies = round_, 0, 0

    def asked(self, round_: int, clients: int, what: str) -> None:
        self._round, self._replies = round_, 0

    def replied(self, record: ClientRecord, what: str) -> None:
        self._replies += 1
        if (self._round, self._replies) == (self._last, 2):
            raise KeyboardInterrupt
