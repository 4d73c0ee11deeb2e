"""A whole run in which one data owner's budget ends before the others': it says so, stays, and the run goes on."""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import pytest
from flwr.app import Context, RecordDict

from client.heads import Heads
from client.policy.account import spent
from client.policy.book import Book
from client.policy.guard import Guard
from client.policy.policy import BudgetSection, Policy
from client.work import Workplace
from fedtune.privacy.accounting import epsilon_of
from fedtune.recipe import Recipe
from fedtune.runs.folder import RunFolder
from fedtune.wire import Task, decode, encode
from server.app import make_app, run_config
from server.listener import Listener
from simulations.cohort import CohortGrid, work_with
from simulations.population import Population
from tests.client.budgets import DELTA, entry_of
from tests.client.places import private_recipe

ROUNDS, AFFORDED = 3, 2


class Owners:
    """Clients that each have a machine, a policy and a book of their own."""

    def __init__(self, recipe: Recipe, folder: Path, caps: dict[str, float | None]) -> None:
        population = Population.of(recipe)
        self.names = population.names
        self.books = {name: Book(folder / name, "rows") for name in self.names}
        self._places = {
            name: Workplace(
                population,
                guard=Guard(self.books[name], _policy(caps.get(name))),
                heads=Heads(folder / name / "heads"),
            )
            for name in self.names
        }

    def answer_all(self, jobs: Sequence[tuple[str, bytes]]) -> Iterator[bytes]:
        return (self._places[name].answer(name, task) for name, task in jobs)


def _policy(epsilon: float | None) -> Policy:
    return Policy(dataset="rows", budget=BudgetSection(epsilon=epsilon, delta=DELTA) if epsilon else None)


@pytest.fixture(scope="module")
def finished(tiny_bert_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[RunFolder, Owners, float]:
    """A run of three clients, of whom `client-0` affords two of three rounds."""
    folder = tmp_path_factory.mktemp("run")
    recipe = private_recipe(
        tiny_bert_folder,
        folder,
        training={"steps": 1},
        data={"holdout_fraction": 0.0, "partition": {"clients": 3}},
        federation={"rounds": ROUNDS},
    )
    events = [entry_of(*_round(recipe))] * AFFORDED
    cap = spent(events, DELTA).epsilon
    owners = Owners(recipe, folder / "owners", {"client-0": cap})
    grid = CohortGrid(owners.names, work_with(owners))
    make_app(Listener())(grid, Context(1, 1, {}, RecordDict(), dict(run_config(recipe, resume=False))))
    return RunFolder.open(Path(recipe.run.folder) / recipe.run.name), owners, cap


def _round(recipe: Recipe):
    from fedtune.privacy.plan import plan_of

    plan = plan_of(recipe)
    assert plan is not None
    return plan.round_events


def test_the_run_goes_on_without_whoever_has_spent_its_budget(finished: tuple[RunFolder, Owners, float]) -> None:
    records = finished[0].rounds()[1:]
    assert [record.aggregated for record in records] == [True] * ROUNDS
    assert [{client.client: client.outcome for client in record.clients} for record in records] == [
        {"client-0": "ok", "client-1": "ok", "client-2": "ok"}
    ] * AFFORDED + [{"client-0": "budget-spent", "client-1": "ok", "client-2": "ok"}]
    assert finished[0].status == "finished"


def test_each_book_holds_what_its_owner_took_part_in(finished: tuple[RunFolder, Owners, float]) -> None:
    _, owners, cap = finished
    for name, rounds in (("client-0", AFFORDED), ("client-1", ROUNDS)):
        entries = owners.books[name].entries()
        assert [(entry.what, entry.round) for entry in entries] == [
            (what, round_) for round_ in range(1, rounds + 1) for what in ("reserve", "done")
        ]
    first = spent(owners.books["client-0"].entries(), DELTA)
    assert first.epsilon == cap
    plan_epsilon = epsilon_of([event.times(AFFORDED) for event in first_events(owners)], DELTA)
    assert first.epsilon == pytest.approx(plan_epsilon, rel=1e-9)


def first_events(owners: Owners):
    return owners.books["client-0"].entries()[0].events


class Misled(Owners):
    """`client-0` is shown another recipe than the others in round 1: one that breaks a rule."""

    def answer_all(self, jobs: Sequence[tuple[str, bytes]]) -> Iterator[bytes]:
        return super().answer_all([(name, _unsound(raw) if name == "client-0" else raw) for name, raw in jobs])


def _unsound(raw: bytes) -> bytes:
    task = decode(raw)
    assert isinstance(task, Task)
    if task.round != 1:
        return raw
    recipe = {**task.recipe, "aggregation": {"weights": "examples"}}
    return encode(replace(task, recipe=recipe, recipe_fingerprint=Recipe.from_coordinator(recipe).fingerprint()))


def test_the_round_goes_on_without_whoever_refuses_an_unsound_recipe(tiny_bert_folder: Path, tmp_path: Path) -> None:
    recipe = private_recipe(
        tiny_bert_folder,
        tmp_path,
        training={"steps": 1},
        data={"holdout_fraction": 0.0, "partition": {"clients": 2}},
        federation={"rounds": 2},
    )
    owners = Misled(recipe, tmp_path / "owners", {})
    make_app(Listener())(
        CohortGrid(owners.names, work_with(owners)),
        Context(1, 1, {}, RecordDict(), dict(run_config(recipe, resume=False))),
    )
    _, first, second = RunFolder.open(Path(recipe.run.folder) / recipe.run.name).rounds()
    assert [(c.client, c.outcome) for c in first.clients] == [("client-0", "unsound-recipe"), ("client-1", "ok")]
    assert "tells how many rows each client has" in first.clients[0].detail
    assert first.aggregated
    assert {c.outcome for c in second.clients} == {"ok"}
    assert [entry.round for entry in owners.books["client-0"].entries() if entry.what == "reserve"] == [2]
