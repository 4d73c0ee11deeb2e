"""A simulation says at its start how long it will take, by a trial pass that leaves no trace and ends nothing."""

import multiprocessing
import re
import time
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import CliRunner

from fedtune.cohort.room import USUAL, Room
from fedtune.recipe import Recipe
from fedtune.recipe.dump import dump
from fedtune.runs.folder import RunFolder
from fedtune.training.resident import Resident, forget_resident, resident
from simulations import trial as module
from simulations.cli import simulate as command
from simulations.forecast import Work, about, forecast, seconds_of, work_of
from simulations.population import Population
from simulations.trial import Trial, keeps, measure, short, trial
from tests.worlds import tiny_recipe, write_rows

FOUND = Trial(rows=2, tokens=5.0, first_s=3.0, again_s=1.0, score_s=0.5)
WORK = Work(
    rounds=10, clients=4, rows=8.0, different=8.0, held=64.0, scored=6.0, scored_by_clients=4.0, at_once=4, tokens=5.0
)
EXAMPLE = {"unit": "example", "epsilon": 8.0, "delta": 1e-5, "sampling_rate": 0.25}

PATIENT = partial(trial, wait_s=60.0)
"""However slow the machine is."""


def still(recipe: Recipe) -> Recipe:
    """The recipe without dropout, so that passes are shared."""
    return recipe.model_copy(update={"model": recipe.model.model_copy(update={"dropout": 0.0})})


@pytest.fixture
def world(tiny_bert_folder: Path, tmp_path: Path) -> Any:
    def make(**sections: Any) -> Population:
        rows = write_rows(tmp_path / "rows.jsonl", 80)
        return Population.of(still(tiny_recipe(tiny_bert_folder, rows, tmp_path, **sections)))

    yield make
    forget_resident()


@pytest.mark.parametrize(
    ("work", "processes", "seconds"),
    [
        (WORK, 1, 320 * 0.5 + 64 * 1.0 + 10 * 0.25),  # each row met once, then known; scores
        (WORK, 2, (320 * 0.5 + 2 * 64 * (1 - 0.5**5) * 1.0) / 2 + 8 * 0.25),
        (WORK, 4, (320 * 0.5 + 4 * 64 * (1 - 0.75**5) * 1.0) / 4 + 7 * 0.25),
        (Work(1, 3, 8.0, 8.0, 64.0, 0.0, 0.0, 3, 5.0), 1, 24 * 0.5 + 64 * 1.0 * 24 / 64),
        (Work(1, 3, 8.0, 8.0, 24.0, 0.0, 0.0, 3, 10.0), 2, 24 * 3.0 / 1.5),  # the second waits for the third client
    ],
)
def test_a_pass_is_scaled_by_rows_steps_scores_and_processes(
    work: Work, processes: int, seconds: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("simulations.forecast.cores", lambda: 4)
    assert seconds_of(work, FOUND, processes) == pytest.approx(seconds)


def test_no_more_digits_are_said_than_a_guess_has() -> None:
    said = [about(seconds) for seconds in (0.1, 43, 89, 100, 4000, 5400, 9000, 360_000)]
    assert said == ["5 s", "45 s", "90 s", "2 min", "67 min", "1.5 h", "2.5 h", "100 h"]


def test_the_work_is_what_the_rounds_will_do(world: Any) -> None:
    population = world(federation={"rounds": 6, "evaluate_every": 4}, training={"epochs": 2})
    tokens = float(population.rows.lengths.mean())
    assert work_of(population) == Work(6, 4, 30.0, 15.0, 60.0, 3 * 20.0, 0.0, 4, tokens)
    assert work_of(population, done=5) == Work(1, 4, 30.0, 15.0, 60.0, 20.0, 0.0, 4, tokens)


def test_the_work_counts_steps_held_out_rows_and_drawn_ones(world: Any) -> None:
    held = {"test_fraction": 0.0, "holdout_fraction": 0.25, "partition": {"clients": 4}}
    population = world(
        data=held, training={"steps": 3}, federation={"rounds": 2, "evaluate_every": 0, "evaluate_clients": 2}
    )
    tokens = float(population.rows.lengths.mean())
    assert work_of(population) == Work(2, 4, 12.0, 12.0, 60.0, 0.0, 2 * 2 * 5.0, 4, tokens)
    drawn = world(privacy=EXAMPLE | {"epsilon": None, "noise_multiplier": 1.0}, training={"steps": 3})
    assert work_of(drawn).rows == pytest.approx(3 * 0.25 * 15)


class Ticks:
    """A clock that goes on by the same time at every look."""

    def __init__(self, tick: float) -> None:
        self.now, self._tick = 0.0, tick

    def __call__(self) -> float:
        self.now += self._tick
        return self.now


@pytest.mark.parametrize("tick", [1e-6, 0.1, 5.0])
def test_as_many_rows_are_tried_as_there_is_time_for(world: Any, tick: float) -> None:
    population = world()
    home = resident(short(population.recipe))
    shares = [population.data(name).train.subset(range(4)) for name in population.names]
    found = measure(home, shares, population.rows, clock=Ticks(tick))
    rows = {1e-6: 16, 0.1: 5, 5.0: 1}[tick]
    assert (found.rows, found.first_s) == (rows, pytest.approx(tick))
    taken = torch.cat([torch.from_numpy(one.lengths) for one in shares])[:rows]
    assert found.tokens == pytest.approx(float(taken.float().mean()))


def test_a_trial_keeps_what_the_run_keeps(world: Any) -> None:
    every = world(federation={"rounds": 1}, training={"epochs": 3})
    assert not keeps(resident(short(every.recipe)), USUAL)
    last = {"targets": ["bert.encoder.layer.1.attention.self.query"]}
    for more, expected in (({"epochs": 3}, True), ({"epochs": 1}, False), ({"epochs": 1, "steps": 9}, True)):
        recipe = short(world(adapter=last, federation={"rounds": 1}, training=more).recipe)
        assert keeps(resident(recipe), USUAL) == expected
        assert not keeps(resident(recipe), Room(0))


def disturbs(home: Resident, *rest: Any) -> Trial:
    """A trial that leaves what it can in its process."""
    found = measure(home, *rest)
    torch.rand(1)
    torch.set_num_threads(torch.get_num_threads() + 1)
    for tensor in home.attached.parameters().values():
        tensor.data.fill_(7.0)
    return found


@pytest.mark.parametrize("privacy", [{}, EXAMPLE, {"unit": "client", "epsilon": 8.0, "delta": 1e-5, "population": 8}])
def test_a_sentence_is_said_and_nothing_is_left_of_the_trial(
    world: Any, privacy: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    population = world(privacy=privacy)
    monkeypatch.setattr("simulations.forecast.cores", lambda: 2)
    monkeypatch.setattr("simulations.forecast.trial", PATIENT)
    monkeypatch.setattr(module, "measure", disturbs)
    random, threads, folders = torch.get_rng_state(), torch.get_num_threads(), set(tmp_path.iterdir())
    before = {name: tensor.clone() for name, tensor in resident(population.recipe).attached.parameters().items()}
    said = forecast(population, 2, USUAL)
    assert said is not None
    assert said.startswith("about ")
    assert " for 3 rounds, by a trial pass of " in said
    assert said.endswith("; said again after the first of them") == (not privacy)
    after = resident(population.recipe).attached.parameters()
    assert all(torch.equal(tensor, after[name]) for name, tensor in before.items())
    assert torch.equal(torch.get_rng_state(), random)
    assert (torch.get_num_threads(), set(tmp_path.iterdir())) == (threads, folders)
    assert multiprocessing.active_children() == []


@pytest.mark.parametrize(
    ("done", "said"),
    [
        (0, "about 5 s for 3 rounds, by a trial pass of 0.05 s; said again after the first of them"),
        (1, "about 5 s for 2 more rounds, by a trial pass of 0.05 s; said again after the first of them"),
        (2, "about 5 s for 1 more round, by a trial pass of 0.05 s"),
    ],
)
def test_a_run_that_goes_on_says_what_is_left(
    world: Any, done: int, said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = Trial(rows=10, tokens=8.0, first_s=0.05, again_s=0.05, score_s=0.01)
    monkeypatch.setattr("simulations.forecast.trial", lambda *_, **__: found)
    assert forecast(world(), 1, USUAL, done=done) == said


def test_what_goes_wrong_on_the_way_ends_nothing(world: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("simulations.forecast.work_of", fails)
    assert forecast(world(), 1, USUAL) is None


def fails(*_: Any) -> Trial:
    raise RuntimeError("the test says so")


def hangs(*_: Any) -> Trial:
    time.sleep(60)
    return FOUND


@pytest.mark.parametrize("broken", [fails, hangs])
def test_a_trial_that_fails_or_hangs_is_given_up(world: Any, broken: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "measure", broken)
    assert trial(world(), 4, 4, USUAL, processes=1, wait_s=0.2 if broken is hangs else 30.0) is None
    assert multiprocessing.active_children() == []


def test_nothing_is_said_where_a_pass_cannot_tell(world: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[object] = []
    monkeypatch.setattr("simulations.forecast.trial", lambda *_, **__: asked.append(1))
    assert forecast(world(), 1, USUAL, done=3) is None
    buffered = {"rounds": 3, "buffer": 2, "concurrency": 2}
    assert forecast(world(simulation={"rows_per_s": 1.0}, federation=buffered), 1, USUAL) is None
    assert asked == []


def test_under_virtual_time_it_is_the_most_that_all_who_are_asked_take(
    world: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = Trial(rows=10, tokens=8.0, first_s=0.05, again_s=0.05, score_s=0.01)
    monkeypatch.setattr("simulations.forecast.trial", lambda *_, **__: found)
    rounds = {"rounds": 3, "clients_per_round": 2, "over_select": 0.5}
    virtual = world(simulation={"rows_per_s": 1.0}, federation=rounds)
    assert work_of(virtual).clients == 3
    assert work_of(world(federation=rounds | {"over_select": 4.0})).clients == len(virtual.names)
    assert str(forecast(virtual, 1, USUAL)).startswith("at most about 5 s for 3 rounds, by a trial pass of ")


def test_a_run_says_it_at_its_start_and_ends_with_the_same_bytes(
    world: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("server.run.draw_plots", lambda _: None)
    monkeypatch.setattr("simulations.forecast.trial", PATIENT)
    recipe, file = world(federation={"rounds": 2}).recipe, tmp_path / "recipe.toml"

    def run(name: str, *options: str) -> tuple[str, list[str]]:
        file.write_text(dump(recipe.model_copy(update={"run": recipe.run.model_copy(update={"name": name})})))
        done = CliRunner().invoke(command, [str(file), *options], catch_exceptions=False)
        assert done.exit_code == 0, done.output
        return done.output, [record.state_digest for record in RunFolder.open(tmp_path / name).rounds()]

    said, digests = run("said", "--workers=2")
    assert re.search(r"about \d+ (s|min) for 2 rounds, by a trial pass of .* s; said again after the first", said)
    monkeypatch.setattr("simulations.simulate.forecast", lambda *_, **__: None)
    unsaid, expected = run("unsaid", "--workers=1")
    assert "trial pass" not in unsaid
    assert digests == expected
