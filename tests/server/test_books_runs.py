"""Whole private runs: what is sent was reserved, what is released was committed, and a death anywhere is paid for."""

import multiprocessing
import os
import signal

import pytest
import torch
from flwr.app import Context, RecordDict

from client.work import Workplace
from fedtune.audit.ledger import follow, read_ledger, spent, verify
from fedtune.audit.ledger.canonical import encode as canonical
from fedtune.errors import LedgerBroken
from fedtune.privacy.accounting import epsilon_of
from fedtune.privacy.plan import plan_of
from fedtune.recipe import Recipe
from fedtune.runs.folder import RunFolder
from fedtune.runs.kept import Keep
from fedtune.wire import Task, decode
from server.app import make_app, run_config
from server.listener import Listener
from simulations.cohort import CohortGrid, work_with
from simulations.population import Population
from tests.worlds import tiny_recipe, write_rows

SAMPLED = {"unit": "client", "delta": 1e-5, "noise_multiplier": 1.0, "clip": 0.1, "sampling_rate": 0.5, "population": 4}
LOCAL = {"unit": "client", "delta": 1e-5, "noise_multiplier": 2.0, "clip": 0.1, "noise": "client"}


EXAMPLE = {
    "unit": "example",
    "delta": 1e-5,
    "noise_multiplier": 1.0,
    "sampling_rate": 0.2,
    "clip": 0.1,
    "metrics": "noised",
    "metrics_noise": 3.0,
}
WHAT = {"train": "train", "evaluate": "evaluate", "gradient": "start"}
"""What a task of each kind is reserved as."""


@pytest.fixture(scope="module")
def rows(tmp_path_factory):
    return write_rows(tmp_path_factory.mktemp("rows") / "rows.jsonl", 80)


@pytest.fixture(autouse=True)
def _no_plots(monkeypatch):
    """Pictures take longer than these runs."""
    monkeypatch.setattr("server.run.draw_plots", lambda _: None)


@pytest.fixture
def recipe_of(tiny_bert_folder, rows, tmp_path):
    """A private recipe of two rounds in this test's own folder."""

    def make(privacy, **sections) -> Recipe:
        return tiny_recipe(
            tiny_bert_folder,
            rows,
            tmp_path,
            privacy=privacy,
            aggregation={"weights": "uniform"},
            training={"steps": 1, "max_grad_norm": None},
            federation={"rounds": 2} | sections.pop("federation", {}),
            data={"holdout_fraction": 0.25 if privacy["unit"] == "example" else 0.0} | sections.pop("data", {}),
            **sections,
        )

    return make


class Watching(Workplace):
    """A workplace that looks at the ledger on the disk whenever a task reaches a client, and follows it."""

    def __init__(self, recipe: Recipe, heads=None) -> None:
        self.folder = RunFolder.create(recipe, resume=True)
        self.folder.close()
        super().__init__(Population.of(recipe), keep=Keep(self.folder.path / "clients"))
        self.seen: list[tuple[str, int]] = []
        self.heads = {} if heads is None else heads
        self.links: list[int] = []

    def answer_all(self, jobs):
        for client, raw in jobs:
            task = decode(raw)
            assert isinstance(task, Task)
            self.seen.append((task.kind, task.round))
            if task.ledger is not None:
                ledger = read_ledger(self.folder.path)
                assert task.ledger.head == ledger.head
                assert ledger.pending is not None, "what is sent was reserved"
                assert (ledger.pending.what, ledger.pending.round) == (WHAT[task.kind], task.round)
                committed = [e.body for e in ledger.entries if e.kind == "commit" and e.body.what == "train"]
                assert task.round <= 1 or committed[-1].state_digest == task.base, "what is released was committed"
                self.heads[client] = follow(self.heads.get(client), task.ledger)
                self.links.append(len(task.ledger.links))
        return super().answer_all(jobs)


class Noting(Listener):
    def __init__(self) -> None:
        self.notes: list[str] = []

    def noted(self, sentence):
        self.notes.append(sentence)


def federate(recipe, place=None, *, resume=False):
    """Run `recipe` with every client in this process; what was noted."""
    place, listener = place or Watching(recipe), Noting()
    grid = CohortGrid(Population.of(recipe).names, work_with(place))
    make_app(listener)(grid, Context(1, 1, {}, RecordDict(), dict(run_config(recipe, resume=resume))))
    return listener.notes


@pytest.mark.parametrize("privacy", [SAMPLED, LOCAL], ids=["sampled", "local"])
def test_nothing_is_sent_before_it_is_reserved_nor_released_before_it_is_committed(recipe_of, tmp_path, privacy):
    recipe = recipe_of(privacy)
    place = Watching(recipe)
    notes = federate(recipe, place, resume=True)
    ledger = read_ledger(tmp_path / "run")
    assert [e.kind for e in ledger.entries] == ["open", *["reserve", "commit"] * 2, "close"]
    plan = plan_of(recipe)
    for history in spent(ledger).histories():
        assert history in ((), plan.planned())
    verify(ledger, public_key=ledger.public_key, heads=[head.hash for head in place.heads.values()])
    records = RunFolder.open(tmp_path / "run").rounds()
    assert ledger.entries[-2].body.state_digest == records[-1].state_digest
    (promise,) = [note for note in notes if note.startswith("privacy:")]
    assert f"ε = {epsilon_of(plan.planned(), 1e-5):.4g} at δ = 1e-05 for each client" in promise
    assert f"({plan.relation})" in promise


def test_starts_and_scores_that_cost_something_are_reserved_too(recipe_of, tmp_path):
    """DP-SGD in the clients, a start from noised gradients, noised scores: who is asked pays for each."""
    recipe = recipe_of(EXAMPLE, adapter={"kind": "square", "init": "dp-gradient", "rank": 4, "targets": "attention"})
    place = Watching(recipe)
    federate(recipe, place, resume=True)
    ledger = read_ledger(tmp_path / "run")
    whats = [body.what for body in ledger.reservations()]
    assert whats == ["start", "evaluate", "train", "evaluate", "train", "evaluate"]
    assert all(len(body.participants) == 4 for body in ledger.reservations())
    sums = spent(ledger)
    assert {sums.of(name) for name in sums.names} == {plan_of(recipe).planned()}
    assert len({kind for kind, _ in place.seen}) == 3
    verify(ledger)
    records = RunFolder.open(tmp_path / "run").rounds()
    assert all(record.federated for record in records)


def test_clients_are_sent_what_they_lack_of_the_ledger(recipe_of):
    """All of it at first, then the links since the round before: two a round and client."""
    recipe = recipe_of(LOCAL, federation={"rounds": 3})
    place = Watching(recipe)
    federate(recipe, place, resume=True)
    assert place.links == [2] * 4 + [2] * 4 + [2] * 4


def test_a_restarted_coordinator_is_followed_and_one_that_forgot_is_not(recipe_of, tmp_path):
    """Clients keep their heads: the ledger restored from an old copy is a rollback that the first task shows."""
    recipe = recipe_of(LOCAL)
    place = Watching(recipe)
    federate(recipe, place, resume=True)
    longer = recipe_of(LOCAL, federation={"rounds": 3})
    federate(longer, Watching(longer, place.heads), resume=True)
    path = tmp_path / "run" / "ledger.jsonl"
    whole = path.read_bytes()
    assert [e.kind for e in read_ledger(path).entries].count("close") == 2
    kept = dict(place.heads)
    lines = whole.splitlines(keepends=True)
    path.write_bytes(b"".join(lines[:-4]))
    longest = recipe_of(LOCAL, federation={"rounds": 4})
    with pytest.raises(LedgerBroken, match="rolled back"):
        federate(longest, Watching(longest, kept), resume=True)


@pytest.mark.parametrize("privacy", [SAMPLED, LOCAL], ids=["sampled", "local"])
def test_clients_are_not_asked_for_scores_and_say_no_losses(recipe_of, tmp_path, privacy):
    recipe = recipe_of(privacy, federation={"rounds": 2, "early_stop": 5})
    place = Watching(recipe)
    federate(recipe, place, resume=True)
    assert {kind for kind, _ in place.seen} == {"train"}
    records = RunFolder.open(tmp_path / "run").rounds()
    assert all(r.federated is None and r.train_loss is None and r.central for r in records)
    assert all(c.loss is None for r in records for c in r.clients)


def test_the_noise_is_calibrated_once_and_written_down(recipe_of, tmp_path):
    section = {k: v for k, v in SAMPLED.items() if k != "noise_multiplier"} | {"epsilon": 8.0}
    recipe = recipe_of(section)
    federate(recipe, work_place(recipe))
    folder = RunFolder.open(tmp_path / "run")
    sigma = folder.recipe.privacy.noise_multiplier
    assert sigma is not None
    plan = plan_of(folder.recipe)
    assert 7.9 < epsilon_of(plan.planned(), 1e-5) <= 8.0 * (1 + 1e-6)
    ledger = read_ledger(tmp_path / "run")
    assert ledger.opened.recipe["privacy"]["noise_multiplier"] == sigma
    assert canonical(ledger.opened.plan) == canonical(plan.as_json())
    federate(recipe, work_place(recipe), resume=True)


def work_place(recipe) -> Workplace:
    return Workplace(Population.of(recipe))


POINTS = {
    "reserved, nothing sent": ("server.round", "TrainingRound.run", "before"),
    "replies in, nothing committed": ("server.round", "TrainingRound.run", "after"),
    "committed, nothing kept": ("server.engine", "Engine._close", "before"),
}


def die_at(point, recipe_json: str, round_: int) -> None:
    """Run the recipe and die without a goodbye at `point` of a round."""
    import importlib

    torch.set_num_threads(1)
    module, name, when = POINTS[point]
    owner_name, _, method = name.partition(".")
    owner = getattr(importlib.import_module(module), owner_name)
    real = getattr(owner, method)

    def dying(self, *arguments):
        first = arguments[0]
        here = (first if isinstance(first, int) else first.round + 1) == round_
        if here and when == "before":
            os.kill(os.getpid(), signal.SIGKILL)
        value = real(self, *arguments)
        if here:
            os.kill(os.getpid(), signal.SIGKILL)
        return value

    setattr(owner, method, dying)
    recipe = Recipe.model_validate_json(recipe_json)
    federate(recipe, work_place(recipe), resume=True)


def killed_at(point, recipe, round_: int) -> None:
    child = multiprocessing.get_context("fork").Process(target=die_at, args=(point, recipe.model_dump_json(), round_))
    child.start()
    child.join(120)
    assert child.exitcode == -signal.SIGKILL


@pytest.mark.processes
@pytest.mark.parametrize("point", POINTS)
def test_a_round_that_a_kill_cut_off_is_spent_and_done_again(recipe_of, tmp_path, point):
    recipe = recipe_of(SAMPLED)
    killed_at(point, recipe, 2)
    left = read_ledger(tmp_path / "run")
    assert left.entries[-1].kind == ("commit" if point.startswith("committed") else "reserve")
    federate(recipe, work_place(recipe), resume=True)
    ledger = read_ledger(tmp_path / "run")
    verify(ledger)
    ends = [e.kind for e in ledger.entries if e.kind in ("commit", "abort")]
    assert ends == ["commit", "commit" if point.startswith("committed") else "abort", "commit"]
    assert sum(event.count for event in spent(ledger).everyone) == 3
    assert [r.round for r in RunFolder.open(tmp_path / "run").rounds()] == [0, 1, 2]


@pytest.mark.processes
def test_a_run_whose_budget_a_crash_used_up_ends_early_with_what_it_has(recipe_of, tmp_path):
    """Two rounds were planned and paid for, one of them came to nothing: the second is not begun a second time."""
    planned = plan_of(recipe_of(SAMPLED)).planned()
    recipe = recipe_of({**SAMPLED, "epsilon": epsilon_of(planned, 1e-5)})
    killed_at("reserved, nothing sent", recipe, 2)
    notes = federate(recipe, work_place(recipe), resume=True)
    assert any("the budget is spent: round 2" in note for note in notes)
    folder = RunFolder.open(tmp_path / "run")
    assert folder.status == "finished"
    assert [r.round for r in folder.rounds()] == [0, 1]
    assert (folder.adapter_path / "adapter_config.json").is_file()
    ledger = read_ledger(tmp_path / "run")
    assert ledger.entries[-1].body.rounds == 1
    assert spent(ledger).everyone == planned
