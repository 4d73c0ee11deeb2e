"""What `fedtune bytes` says before a run and what the run measures are within one per cent of each other."""

from collections import defaultdict
from io import StringIO
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console

from fedtune.privacy.plan import plan_of
from fedtune.recipe import Recipe
from fedtune.runs.folder import RunFolder
from fedtune.runs.record import ClientRecord
from server.cli_bytes import render
from server.listener import Listener
from server.plan_bytes import plan_bytes
from server.plan_ledger import Links, links_of
from server.plan_schedule import Schedule
from simulations.simulate import simulate
from tests.federation import federate, folder_of, recipe_for
from tests.split.split_models import folder as model_of
from tests.worlds import write_rows

BIG = ("adapter.rank=24", 'adapter.targets="all-linear"')
RECIPES = {
    "fed-sb": ('method="fed-sb"', *BIG),
    "fedit in bf16": ('method="fedit"', *BIG, 'compression.upload=["bf16"]'),
    "rolora": ('method="rolora"', *BIG, "federation.rounds=4"),
    "fedex-lora": ('method="fedex-lora"', *BIG),
    "scaffold": ('method="fed-sb"', *BIG, "training.scaffold=true"),
    "encoded downloads": ('method="fed-sb"', *BIG, 'compression.download=["fp16"]'),
    "ef21": ('method="fed-sb"', *BIG, 'compression.upload=["bf16"]', 'compression.feedback="ef21"'),
    "held out rows": ('method="fed-sb"', *BIG, "data.holdout_fraction=0.25"),
    "some of the clients": ('method="fed-sb"', *BIG, "federation.clients_per_round=2", "federation.rounds=6"),
    "asynchronous": ('method="fed-sb"', *BIG, "federation.buffer=2", "federation.rounds=6"),
}


@pytest.fixture(scope="module")
def rows(tmp_path_factory):
    return write_rows(tmp_path_factory.mktemp("rows") / "rows.jsonl", 60)


@pytest.fixture(autouse=True)
def _no_plots(monkeypatch):
    """Pictures take most of a small run's time."""
    monkeypatch.setattr("server.run.draw_plots", lambda _: None)


@pytest.mark.parametrize("name", RECIPES)
def test_the_plan_and_the_run_are_within_one_per_cent(name, tiny_bert_folder, rows, tmp_path):
    recipe = recipe_for(tiny_bert_folder, rows, tmp_path, *RECIPES[name])
    plan = plan_bytes(recipe)
    federate(recipe)
    rounds = RunFolder.open(folder_of(recipe)).rounds()
    late = [client for record in rounds[-2:] for client in record.clients]
    assert sum(c.bytes_up for c in late) / len(late) == pytest.approx(plan.round.up, rel=0.01)
    if name != "some of the clients":  # whether a client was there in the round before decides what it is sent
        assert sum(c.bytes_down for c in late) / len(late) == pytest.approx(plan.round.down, rel=0.01)
    assert sum(r.bytes_up() for r in rounds) == pytest.approx(plan.run.up, rel=0.01)
    assert sum(r.bytes_down() for r in rounds) == pytest.approx(plan.run.down, rel=0.01)


PRIVATE = ("privacy.delta=1e-5", "privacy.noise_multiplier=1.0", "training.steps=1", *BIG)
CLIENT = ('privacy.unit="client"', "privacy.population=4", *PRIVATE)
ROWS = ('privacy.unit="example"', "privacy.sampling_rate=0.1", 'privacy.metrics="noised"', "data.holdout_fraction=0.25")
LEDGERS = {
    "rows": (*ROWS, *PRIVATE, "federation.rounds=4"),
    "rows at the start": (*ROWS, *PRIVATE, "federation.rounds=4", 'adapter.init="dp-gradient"'),
    "rows of some": (*ROWS, *PRIVATE, "federation.rounds=8", "federation.clients_per_round=2"),
    "clients": (*CLIENT, "privacy.sampling_rate=1.0", "federation.rounds=4"),
    "turns": (
        *CLIENT,
        'privacy.mechanism="banded"',
        "privacy.min_separation=2",
        "federation.clients_per_round=1",
        "federation.rounds=12",
    ),
    "drawn": (*CLIENT, "privacy.sampling_rate=0.5", "federation.rounds=8"),
    "local": ('privacy.unit="client"', 'privacy.noise="client"', *PRIVATE, "federation.rounds=4"),
}


def recipe_with(privacy: dict[str, object]) -> Recipe:
    """Turns of four clients, of 20 rounds; `privacy` as in its section."""
    section = {"delta": 1e-5, "noise_multiplier": 1.0, **privacy}
    federation = {"rounds": 20, "clients_per_round": 4 if "mechanism" in privacy else 0}
    values = {"model": {"name": "m"}, "training": {"steps": 1}, "federation": federation, "privacy": section}
    return Recipe.model_validate(values)


class Weighing(Listener):
    """Bytes of each reply and its task, by what was asked."""

    def __init__(self) -> None:
        self.replies: dict[str, list[ClientRecord]] = defaultdict(list)

    def replied(self, record: ClientRecord, what: str) -> None:
        assert record.outcome == "ok"
        self.replies[what].append(record)

    def later(self, what: str) -> list[ClientRecord]:
        """All but the first of each client."""
        seen: set[str] = set()
        return [r for r in self.replies[what] if r.client in seen or seen.add(r.client)]  # type: ignore[func-returns-value]


@pytest.mark.parametrize("name", LEDGERS)
def test_the_head_of_a_privacy_ledger_is_counted_and_its_links_by_their_number(
    name: str, tiny_bert_folder: Path, rows: Path, tmp_path: Path
) -> None:
    recipe = recipe_for(tiny_bert_folder, rows, tmp_path, *LEDGERS[name])
    plan = plan_bytes(recipe)
    weighed = Weighing()
    federate(recipe, listener=weighed)
    later = weighed.later("train")
    up, down = (sum(getattr(r, way) for r in later) / len(later) for way in ("bytes_up", "bytes_down"))
    assert up == pytest.approx(plan.round.up, rel=0.002)
    assert down == pytest.approx(plan.round.down, rel=0.01)
    rounds = RunFolder.open(folder_of(recipe)).rounds()
    total = [sum(r.bytes_up() for r in rounds), sum(r.bytes_down() for r in rounds)]
    if rounds[0].hides_clients:
        replies = weighed.replies["train"]
        total = [sum(r.bytes_up for r in replies), sum(r.bytes_down for r in replies)]
    if name not in ("drawn", "turns"):  # who is drawn, and whose turn comes first, is chance
        assert down == pytest.approx(plan.round.down, rel=0.002)
        assert total == pytest.approx([plan.run.up, plan.run.down], rel=0.01)
    assert all(weighed.replies[kind] for kind in ("train", *(["evaluate"] if "rows" in name else [])))


def test_links_are_those_of_a_ledger_that_is_walked_through() -> None:
    """By hand: 3 rounds of everybody with noised scores after each are 1 + 2·7 entries; turns come after 5 rounds."""
    plan = plan_of(recipe_with({"unit": "example", "sampling_rate": 0.1, "metrics": "noised"}))
    everybody = links_of(plan, Schedule(population=10, clients=10, rounds=3, evaluated=(0, 1, 2, 3), scored=10))
    assert everybody == Links(first=2.0, later=2.0, evaluation=2.0, newcomers=10.0)
    unscored = links_of(plan, Schedule(population=10, clients=10, rounds=3, evaluated=(), scored=10))
    assert unscored == Links(first=2.0, later=2.0, evaluation=2.0, newcomers=10.0)
    turns = plan_of(recipe_with({"unit": "client", "mechanism": "banded", "min_separation": 2, "population": 20}))
    assert links_of(turns, Schedule(20, 4.0, 12, (), 20)) == Links(np.mean([4, 6, 8, 10, 12]), 10.0, 0.0, 20.0)


@pytest.mark.parametrize("share", [0.1, 0.5, 0.9])
def test_links_to_clients_that_are_drawn_are_those_of_many_simulated_runs(share: float) -> None:
    plan = plan_of(recipe_with({"unit": "client", "sampling_rate": share, "population": 12}))
    found = links_of(plan, Schedule(12, 12 * share, 20, (), 12))
    draw = np.random.default_rng(0)
    first, later = [], []
    for _ in range(400):
        known: dict[int, int] = {}
        for reserved in range(1, 41, 2):
            drawn = np.flatnonzero(draw.random(12) < share)
            oldest = min((known[c] for c in drawn if c in known), default=None)
            for client in drawn:
                (later if client in known else first).append(reserved - (oldest if client in known else -1))
            known |= dict.fromkeys(drawn, reserved)
    assert found.first == pytest.approx(np.mean(first), rel=0.03)
    assert found.later == pytest.approx(np.mean(later), rel=0.03)
    assert found.newcomers == pytest.approx(12 * (1 - (1 - share) ** 20), rel=1e-9)


def test_the_table_sets_the_recipe_beside_fedit(tiny_bert_folder, rows, tmp_path):
    plan = plan_bytes(recipe_for(tiny_bert_folder, rows, tmp_path, *RECIPES["fed-sb"]))
    numbers = 2 * (4 * 32 * 64 + 2 * 32 * 96) + 32 * 64 + 2 * 33
    assert plan.fedit.up == plan.fedit.down == 4 * numbers
    console = Console(width=120, file=StringIO())
    console.print(render(plan))
    assert "FedIT rank 32 in fp32" in console.file.getvalue()


def test_of_a_split_model_the_sums_leave_activations_out_and_say_so(rows, tmp_path):
    lines = ('method="sfprompt"', 'adapter.targets="all-linear"', 'split.activations="fp16"')
    recipe = recipe_for(model_of("bert"), rows, tmp_path, *lines)
    plan = plan_bytes(recipe)
    assert plan.fedit is None
    tensor = 4 + 2 * (16 + 5) * 16
    assert (plan.row.up, plan.row.down) == (2 * tensor, 2 * tensor)
    simulate(recipe)
    record = RunFolder.open(folder_of(recipe)).rounds()[-1]
    assert record.clients[0].bytes_up == pytest.approx(plan.round.up, rel=0.02)  # more metrics stand in the header
    console = Console(width=120, file=StringIO())
    console.print(render(plan))
    assert "all clients, without activations" in console.file.getvalue()
    assert "fedtune split plan" in console.file.getvalue()
    assert "FedIT" not in console.file.getvalue()
