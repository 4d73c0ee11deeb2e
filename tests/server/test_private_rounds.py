"""Whole runs with client-level privacy over the cohort Grid: every mechanism, and what a crash leaves behind."""

import itertools
import json
import multiprocessing
import os
import signal
import time
from datetime import datetime

import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from fedtune.aggregation.private import CLIP
from fedtune.audit.ledger import read_ledger
from fedtune.errors import PrivacyError
from fedtune.privacy.plan import plan_of
from fedtune.runs.end_table import rows as rows_of
from fedtune.runs.folder import RunFolder
from fedtune.runs.page import render_page
from fedtune.runs.page.columns import client_time_chart, duration_chart, traffic_chart
from fedtune.runs.summary import summarise
from server.listener import Listener
from server.private_past import read_past
from simulations.simulate import simulate
from tests.worlds import tiny_recipe, write_rows

PRIVATE = {"unit": "client", "delta": 1e-5, "noise_multiplier": 0.5, "clip": 0.1, "population": 4}
MODES = {
    "sampled": ({"sampling_rate": 0.5}, {}),
    "everybody": ({"sampling_rate": 1.0}, {}),
    "adaptive": ({"sampling_rate": 0.5, "clip_quantile": 0.5, "count_noise": 1.0}, {}),
    "banded": ({"mechanism": "banded", "min_separation": 2}, {"clients_per_round": 2}),
}


@pytest.fixture(scope="module")
def rows(tmp_path_factory):
    return write_rows(tmp_path_factory.mktemp("rows") / "rows.jsonl", 80)


@pytest.fixture(autouse=True)
def no_plots(monkeypatch):
    """Pictures take most of a small run's time."""
    monkeypatch.setattr("server.run.draw_plots", lambda _: None)


def private_recipe(model, rows, folder, mode, *, name="run", rounds=3, **privacy):
    section, federation = MODES[mode]
    return tiny_recipe(
        model,
        rows,
        folder,
        privacy={**PRIVATE, **section, **privacy},
        federation={"rounds": rounds, **federation},
        aggregation={"weights": "uniform"},
        training={"steps": 2},
        run={"name": name, "folder": str(folder)},
    )


@pytest.mark.parametrize("mode", MODES)
def test_every_mechanism_runs_and_tells_nothing_of_who_was_in_a_round(tiny_bert_folder, rows, tmp_path, mode):
    folder = RunFolder.open(simulate(private_recipe(tiny_bert_folder, rows, tmp_path, mode)))
    records = folder.rounds()
    assert [r.round for r in records] == [0, 1, 2, 3]
    assert all(r.aggregated and r.clients == () and r.train_loss is None for r in records[1:])
    assert len({r.state_digest for r in records}) == 4
    assert folder.status == "finished"
    kept = folder.checkpoints.latest().parts.get("memory", {})
    assert (CLIP in kept) == (mode == "adaptive")


def test_local_noise_is_averaged_like_any_update(tiny_bert_folder, rows, tmp_path):
    recipe = tiny_recipe(
        tiny_bert_folder,
        rows,
        tmp_path,
        privacy={"unit": "client", "delta": 1e-5, "noise_multiplier": 0.5, "clip": 0.1, "noise": "client"},
        aggregation={"weights": "uniform"},
        training={"steps": 2},
    )
    records = RunFolder.open(simulate(recipe)).rounds()
    assert all(r.aggregated and len(r.clients) == 4 and r.train_loss is None for r in records[1:])


def test_the_same_recipe_and_seed_never_give_the_same_noise(tiny_bert_folder, rows, tmp_path):
    digests = set()
    for name in ("a", "b"):
        recipe = private_recipe(tiny_bert_folder, rows, tmp_path, "everybody", name=name, rounds=1)
        digests.add(RunFolder.open(simulate(recipe)).rounds()[-1].state_digest)
    assert len(digests) == 2


def test_a_round_of_nobody_is_released_all_the_same(tiny_bert_folder, rows, tmp_path):
    recipe = private_recipe(tiny_bert_folder, rows, tmp_path, "sampled", sampling_rate=1e-15)
    records = RunFolder.open(simulate(recipe)).rounds()
    assert all(r.aggregated and r.update_norm > 0 for r in records[1:])


def test_more_clients_than_the_declared_population_stop_the_run(tiny_bert_folder, rows, tmp_path):
    with pytest.raises(PrivacyError, match=r"4 clients are connected and privacy\.population declares 3"):
        simulate(private_recipe(tiny_bert_folder, rows, tmp_path, "sampled", population=3))


class Interrupting(Listener):
    """Stops a run when round 2 has been drawn, written down, and is about to be sent."""

    def asked(self, round_, clients, what):
        if (round_, what) == (2, "train"):
            raise KeyboardInterrupt


@pytest.mark.parametrize("mode", ["adaptive", "banded"])
def test_a_round_that_is_repeated_costs_again_and_is_drawn_anew(tiny_bert_folder, rows, tmp_path, mode):
    recipe = private_recipe(tiny_bert_folder, rows, tmp_path, mode)
    with pytest.raises(KeyboardInterrupt):
        simulate(recipe, listener=Interrupting())
    simulate(recipe, resume=True)
    ledger = read_ledger(tmp_path / "run")
    reserved = [body for body in ledger.reservations() if body.what == "train"]
    assert [body.round for body in reserved] == [1, 2, 2, 3]
    assert len({body.drawn.commitments for body in reserved}) == 4
    assert all(body.events == plan_of(recipe).round_events for body in reserved)


def test_turns_are_kept_over_an_aborted_round(tiny_bert_folder, rows, tmp_path):
    """Two rows apart or more, although the second round was tried twice; each row holds whom the books say it does."""
    recipe = private_recipe(tiny_bert_folder, rows, tmp_path, "banded", rounds=5)
    with pytest.raises(KeyboardInterrupt):
        simulate(recipe, listener=Interrupting())
    simulate(recipe, resume=True)
    drawn = [set(row) for row in read_past(tmp_path / "run").drawn]
    assert len(drawn) == 6
    assert set.union(*drawn) == {read_past(tmp_path / "run").known_as(f"client-{k}") for k in range(4)}
    assert not any(row & later for row, later in itertools.pairwise(drawn))


def simulate_in_child(recipe_json):
    from fedtune.recipe import Recipe

    torch.set_num_threads(1)
    simulate(Recipe.model_validate_json(recipe_json), resume=True)


def kill_in_round(recipe, folder, lines):
    """Run `recipe` in a process of its own and kill it when `lines` rounds are written."""
    journal = folder / "rounds.jsonl"
    child = multiprocessing.get_context("fork").Process(target=simulate_in_child, args=(recipe.model_dump_json(),))
    child.start()
    deadline = time.monotonic() + 120
    while child.is_alive() and time.monotonic() < deadline:
        if journal.exists() and journal.read_bytes().count(b"\n") > lines:
            os.kill(child.pid, signal.SIGKILL)
        time.sleep(0.002)
    if child.is_alive():
        child.terminate()
    child.join()
    assert child.exitcode == -signal.SIGKILL


@pytest.mark.processes
@pytest.mark.parametrize("mode", ["adaptive", "banded"])
def test_a_run_that_is_killed_goes_on_from_its_last_round(tiny_bert_folder, rows, tmp_path, mode):
    recipe = private_recipe(tiny_bert_folder, rows, tmp_path, mode, rounds=10)
    folder = tmp_path / "run"
    kill_in_round(recipe, folder, 2)
    before = [json.loads(line)["state_digest"] for line in (folder / "rounds.jsonl").read_bytes().splitlines()[:2]]
    clip = RunFolder.open(folder).checkpoints.latest().parts.get("memory", {}).get(CLIP)
    assert (clip is not None and clip.item() != 0.1) == (mode == "adaptive")
    finished = RunFolder.open(simulate(recipe, resume=True))
    records = finished.rounds()
    assert [r.round for r in records] == list(range(11))
    assert [r.state_digest for r in records[:2]] == before
    drawn = [set(row) for row in read_past(folder).drawn]
    assert len(drawn) >= 10
    assert mode != "banded" or not any(row & later for row, later in itertools.pairwise(drawn))


class Overhearing(Listener):
    """What the coordinator sees of a run as it goes on."""

    def __init__(self):
        self.replies = []

    def replied(self, record, what):
        self.replies.append(record)


def written_numbers(folder):
    """All that the folder says to whoever gets it, but what the noised states come to."""
    noised = {"update_norm", "central", "best", "state_digest"}
    events = EventAccumulator(str(folder.tensorboard_path)).Reload()
    tags = events.Tags()["scalars"]
    summary = summarise(folder)
    return {
        "rounds": [record.model_dump(exclude=noised) for record in folder.rounds()],
        "logged": sorted(tags),
        "logged at": {event.wall_time - start_of(folder) for tag in tags for event in events.Scalars(tag)},
        "ledger at": {entry.time[10:] for entry in read_ledger(folder.path).entries},
        "table": [row for row in rows_of(summary) if row[0] not in ("accuracy", "loss")],
        "clients' charts": [chart(folder.rounds()) for chart in (traffic_chart, duration_chart, client_time_chart)],
    }


def start_of(folder):
    return datetime.fromisoformat(folder.info.started_at).timestamp()


def test_nothing_that_is_written_tells_how_many_were_drawn(tiny_bert_folder, rows, tmp_path, monkeypatch):
    """A run in which everybody is drawn in each round, and one in which nobody is, leave the same behind."""
    written = []
    for name, share in (("everybody", 1), ("nobody", 0)):
        monkeypatch.setattr("server.private.PoissonRows.draw", lambda _, count, __, share=share: range(share * count))
        recipe = private_recipe(tiny_bert_folder, rows, tmp_path, "sampled", name=name)
        recipe = recipe.model_copy(update={"run": recipe.run.model_copy(update={"tensorboard": True})})
        heard = Overhearing()
        folder = RunFolder.open(simulate(recipe, listener=heard))
        assert len(heard.replies) == 12 * share
        assert all(record.bytes_up > 1000 for record in heard.replies)
        page = render_page(folder)
        assert "how many were drawn is a secret" in page
        assert "Sent by a client" not in page
        written.append(written_numbers(folder))
    everybody, nobody = written
    assert everybody == nobody
    assert everybody["logged at"] == {0.0}
    assert everybody["ledger at"] == {"T00:00:00.000+00:00"}
    assert "central/loss" in everybody["logged"]
    assert not any(tag.startswith(("traffic", "round")) for tag in everybody["logged"])
    assert [row[0] for row in everybody["table"]] == ["measured on", "rounds", "clients, traffic, time"]
    assert everybody["clients' charts"] == [None] * 3


def test_without_noise_at_the_coordinator_times_and_traffic_are_written(tiny_bert_folder, rows, tmp_path):
    folder = RunFolder.open(simulate(tiny_recipe(tiny_bert_folder, rows, tmp_path, federation={"rounds": 1})))
    record = folder.rounds()[1]
    assert not record.hides_clients
    assert record.seconds > 0
    assert record.finished_at > folder.info.started_at
    assert record.bytes_up() > 1000
    assert dict(rows_of(summarise(folder)))["clients"] == "4"
