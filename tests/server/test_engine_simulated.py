"""Whole runs over the cohort Grid with a tiny real model: they learn, repeat, resume, and do not depend on batching."""

import multiprocessing
import os
import signal
import time
from pathlib import Path

import pytest
import torch
from flwr.app import Context, RecordDict

from client.work import Workplace
from fedtune.errors import RunError
from fedtune.runs.folder import RunFolder
from server.app import make_app, run_config
from server.listener import Listener
from simulations.cohort import CohortGrid, work_with
from simulations.population import Population
from simulations.simulate import simulate
from tests.worlds import tiny_recipe, write_rows


@pytest.fixture(scope="module")
def rows(tmp_path_factory):
    return write_rows(tmp_path_factory.mktemp("rows") / "rows.jsonl", 160)


def last_digest(path: Path) -> str:
    return RunFolder.open(path).rounds()[-1].state_digest


def test_a_run_learns_and_leaves_everything_behind(tiny_bert_folder, rows, tmp_path):
    recipe = tiny_recipe(
        tiny_bert_folder,
        rows,
        tmp_path,
        adapter={"kind": "lora", "init": "kaiming", "rank": 8, "targets": "all-linear"},
        federation={"rounds": 8},
        training={"epochs": 4},
    )
    path = simulate(recipe)
    folder = RunFolder.open(path)
    records = folder.rounds()
    assert [r.round for r in records] == list(range(9))
    assert records[-1].train_loss < 0.8 * records[1].train_loss
    assert max(r.central.accuracy for r in records) > 0.75
    assert folder.status == "finished"
    assert all(c.outcome == "ok" and c.bytes_up > 0 and c.bytes_down > 0 for r in records[1:] for c in r.clients)
    assert {p.name for p in folder.adapter_path.iterdir()} >= {"adapter_config.json", "adapter_model.safetensors"}
    assert list(folder.plots_path.glob("*.png"))


def test_the_same_recipe_gives_the_same_bytes_and_another_seed_does_not(tiny_bert_folder, rows, tmp_path):
    digests = [
        last_digest(
            simulate(
                tiny_recipe(tiny_bert_folder, rows, tmp_path, run={"name": name, "seed": seed, "folder": str(tmp_path)})
            )
        )
        for name, seed in (("a", 0), ("b", 0), ("c", 1))
    ]
    assert digests[0] == digests[1] != digests[2]


@pytest.mark.parametrize("kind", [{"kind": "square"}, {"kind": "lora", "init": "kaiming", "dropout": 0.1}])
def test_workers_and_the_order_of_clients_change_no_bit(tiny_bert_folder, rows, tmp_path, kind):
    def recipe(name):
        return tiny_recipe(
            tiny_bert_folder,
            rows,
            tmp_path,
            run={"name": name, "folder": str(tmp_path)},
            adapter={"rank": 4, "targets": "attention", **kind},
            training={"gradient_checkpointing": True},  # so that clients take turns
            federation={"rounds": 2},
        )

    one = last_digest(simulate(recipe("one")))
    assert last_digest(simulate(recipe("three"), workers=3)) == one
    backwards = recipe("backwards")
    population = Population.of(backwards)
    grid = CohortGrid(population.names[::-1], work_with(Workplace(population)))
    make_app(Listener())(grid, Context(1, 1, {}, RecordDict(), dict(run_config(backwards, resume=False))))
    assert last_digest(tmp_path / "backwards") == one


def simulate_in_child(recipe_json: str, resume: bool) -> None:
    from fedtune.recipe import Recipe

    torch.set_num_threads(1)
    simulate(Recipe.model_validate_json(recipe_json), resume=resume)


@pytest.mark.processes
def test_a_run_killed_at_any_moment_and_resumed_ends_with_the_same_bytes(tiny_bert_folder, rows, tmp_path):
    """kill -9 in several rounds; each time the run goes on, and the end is the end of a run that was left alone."""
    whole = tiny_recipe(
        tiny_bert_folder, rows, tmp_path, federation={"rounds": 8}, run={"name": "whole", "folder": str(tmp_path)}
    )
    expected = last_digest(simulate(whole))
    killed = tiny_recipe(
        tiny_bert_folder, rows, tmp_path, federation={"rounds": 8}, run={"name": "killed", "folder": str(tmp_path)}
    )
    journal = tmp_path / "killed" / "rounds.jsonl"
    fork = multiprocessing.get_context("fork")
    for lines in (1, 3, 6):
        child = fork.Process(target=simulate_in_child, args=(killed.model_dump_json(), True))
        child.start()
        deadline = time.monotonic() + 120
        while child.is_alive() and time.monotonic() < deadline:
            if journal.exists() and journal.read_bytes().count(b"\n") > lines:
                os.kill(child.pid, signal.SIGKILL)
            time.sleep(0.002)
        child.join()
        assert child.exitcode == -signal.SIGKILL
    path = simulate(killed, resume=True)
    folder = RunFolder.open(path)
    assert last_digest(path) == expected
    assert [r.round for r in folder.rounds()] == list(range(9))
    assert folder.status == "finished"


def test_a_finished_run_is_not_overwritten(tiny_bert_folder, rows, tmp_path):
    recipe = tiny_recipe(tiny_bert_folder, rows, tmp_path, federation={"rounds": 1})
    simulate(recipe)
    with pytest.raises(RunError, match="--resume"):
        simulate(recipe)


def test_sampled_rounds_ask_the_wanted_number_and_over_selection_drops_the_rest(tiny_bert_folder, rows, tmp_path):
    recipe = tiny_recipe(
        tiny_bert_folder,
        rows,
        tmp_path,
        data={"source": str(rows), "test_fraction": 0.25, "partition": {"clients": 10}},
        federation={"rounds": 3, "clients_per_round": 4, "over_select": 0.5},
    )
    records = RunFolder.open(simulate(recipe)).rounds()[1:]
    for record in records:
        outcomes = [c.outcome for c in record.clients]
        assert len(outcomes) == 6
        assert outcomes.count("ok") == 4
        assert outcomes.count("not-needed") == 2
    assert len({tuple(c.client for c in r.clients) for r in records}) > 1


def test_clients_evaluate_on_their_held_out_rows_and_early_stopping_stops(tiny_bert_folder, rows, tmp_path):
    recipe = tiny_recipe(
        tiny_bert_folder,
        rows,
        tmp_path,
        data={"source": str(rows), "test_fraction": 0.0, "holdout_fraction": 0.25, "partition": {"clients": 4}},
        federation={"rounds": 50, "early_stop": 2},
        training={"steps": 0},
    )
    records = RunFolder.open(simulate(recipe)).rounds()
    assert len(records) == 3
    assert all(r.central is None and r.federated.examples == 40 for r in records)
    assert [r.best for r in records] == [True, False, False]
    # The four clients were sent the state once more to score it, and what they said is counted too.
    assert all(r.other_bytes_down > 4000 and 400 < r.other_bytes_up < 4000 for r in records)


@pytest.mark.parametrize("init", ["public-gradient", "private-gradient", "random"])
def test_other_initialisations_run_and_their_factors_are_counted(tiny_bert_folder, rows, tmp_path, init):
    public = write_rows(tmp_path / "public.jsonl", 40, seed=9)
    source = {"init_source": str(public)} if init == "public-gradient" else {}
    recipe = tiny_recipe(
        tiny_bert_folder,
        rows,
        tmp_path,
        adapter={"rank": 4, "targets": "attention", "init": init, **source},
        federation={"rounds": 3},
    )
    path = simulate(recipe)
    records = RunFolder.open(path).rounds()
    down = [r.bytes_down() for r in records[1:]]
    assert all(c.outcome == "ok" for r in records[1:] for c in r.clients)
    # A private start: four clients each upload a gradient of every adapted weight, far more than an adapter.
    assert (records[0].other_bytes_up > 4 * records[1].clients[0].bytes_up) == (init == "private-gradient")
    assert all(r.other_bytes_up == r.other_bytes_down == 0 for r in records[1:])
    if init == "random":
        assert down[0] == down[1]
    else:
        assert down[0] > down[1] == down[2]
    killed = RunFolder.open(path)
    assert bool(killed.checkpoints.latest().shared) == (init != "random")


def test_a_run_without_enough_good_updates_changes_nothing_and_gives_up(tiny_bert_folder, rows, tmp_path):
    recipe = tiny_recipe(
        tiny_bert_folder,
        rows,
        tmp_path,
        federation={"rounds": 9, "min_replies": 1, "max_failed_rounds": 2},
        aggregation={"max_norm": 1e-12},
    )
    with pytest.raises(RunError, match="2 rounds in a row"):
        simulate(recipe)
    folder = RunFolder.open(tmp_path / "run")
    records = folder.rounds()
    assert [r.aggregated for r in records] == [False, False, False]
    assert len({r.state_digest for r in records}) == 1
    assert folder.status == "failed"
    assert all(c.outcome == "mismatched-update" for r in records[1:] for c in r.clients)
