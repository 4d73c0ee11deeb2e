"""What virtual time must not leave behind: a trace in runs without a clock, or what noise at the coordinator hides."""

import json
from pathlib import Path
from typing import Any

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from fedtune.recipe import Recipe
from fedtune.runs.folder import RunFolder
from fedtune.runs.page import render_page
from fedtune.runs.virtual import time_to_accuracy
from fedtune.runs.words import seconds_text
from simulations.simulate import simulate
from tests.worlds import tiny_recipe, write_rows

WALL = {"finished_at", "seconds"}
"""Of a round, and of a client, what this machine's clock says."""
STAYS_WITH_THE_COORDINATOR = "checkpoints"
"""What a run goes on from holds the clock."""


@pytest.fixture(autouse=True)
def no_pictures(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("server.run.draw_plots", lambda _: {})


@pytest.fixture(scope="module")
def rows(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_rows(tmp_path_factory.mktemp("rows") / "rows.jsonl", 80)


@pytest.fixture
def run(tiny_bert_folder: Path, rows: Path, tmp_path: Path) -> Any:
    """Simulate by name, two rounds; the run's folder."""

    def simulated(name: str, **sections: dict[str, Any]) -> Path:
        base: dict[str, dict[str, Any]] = {
            "federation": {"rounds": 2},
            "training": {"steps": 2},
            "run": {"name": name, "folder": str(tmp_path)},
        }
        recipe: Recipe = tiny_recipe(tiny_bert_folder, rows, tmp_path, **{**base, **sections})
        return simulate(recipe)

    return simulated


def lasting(path: Path) -> list[dict[str, Any]]:
    """The lines of rounds.jsonl without wall-clock times."""
    lines = [json.loads(line) for line in (path / "rounds.jsonl").read_text().splitlines()]
    return [
        {
            **{key: value for key, value in line.items() if key not in WALL},
            "clients": [{k: v for k, v in client.items() if k not in WALL} for client in line["clients"]],
        }
        for line in lines
    ]


def learned(path: Path) -> dict[str, bytes]:
    """Every file of tensors, by its place in the run folder."""
    return {str(file.relative_to(path)): file.read_bytes() for file in sorted(path.rglob("*.safetensors"))}


def test_devices_that_take_no_time_and_are_always_there_change_no_byte(run: Any) -> None:
    nothing = {"availability": "always", "rows_per_s": 0.0, "fail_in_upload": 0.0, "jitter": 0.5, "speed_spread": 1.0}
    without, idle = run("without"), run("idle", simulation=nothing)
    clock = run("clock", simulation={**nothing, "failures": ["client-0=3"]})  # runs, and there is no round 3
    assert lasting(idle) == lasting(without)
    assert learned(idle) == learned(without) == learned(clock)
    assert len(learned(without)) > 2
    assert not any("virtual" in line for line in lasting(without))
    assert "clock_s" not in RunFolder.open(without).checkpoints.latest().extra
    timed = lasting(clock)
    assert [line.pop("virtual") for line in timed] == [{"seconds": 0.0, "clock_s": 0.0, "online": 4}] * 3
    assert timed == lasting(without)


def test_under_noise_at_the_coordinator_no_file_tells_virtual_time_or_how_many_were_there(
    run: Any, tmp_path: Path
) -> None:
    """Two rounds of 8 rows at 0.0007 rows a second: the digits of their ends would stand out wherever they were."""
    round_s = 8 / 0.0007
    path = run(
        "hidden",
        privacy={"unit": "client", "delta": 1e-5, "noise_multiplier": 0.5, "population": 4, "sampling_rate": 1.0},
        aggregation={"weights": "uniform"},
        simulation={"rows_per_s": 0.0007},
        federation={"rounds": 2, "deadline_s": 1e5},
        run={"name": "hidden", "folder": str(tmp_path), "tensorboard": True},
    )
    folder = RunFolder.open(path)
    assert folder.checkpoints.latest().extra["clock_s"] == pytest.approx(2 * round_s)
    assert all(record.virtual is None and record.hides_clients for record in folder.rounds())
    assert time_to_accuracy(folder.rounds(), 0.0) is None
    (path / "report.html").write_text(render_page(folder))
    told = [file for file in path.rglob("*") if file.is_file() and STAYS_WITH_THE_COORDINATOR not in file.parts]
    assert {"rounds.jsonl", "report.html", "ledger.jsonl", "recipe.json"} <= {file.name for file in told}
    tells = [f"{round_s:.0f}", f"{2 * round_s:.0f}", f"{int(round_s)}.", f"{int(2 * round_s)}.", "clock_s", "Virtual"]
    tells += [seconds_text(round_s), seconds_text(2 * round_s), '"online"', "virtual_"]
    for file in told:
        content = file.read_bytes()
        assert not [words for words in tells if words.encode() in content], file
    assert b"virtual" not in (path / "rounds.jsonl").read_bytes()
    events = EventAccumulator(str(folder.tensorboard_path)).Reload()
    logged = {tag: events.Scalars(tag) for tag in events.Tags()["scalars"]}
    assert logged
    assert not any("virtual" in tag or tag.startswith("round/") for tag in logged)
    assert max(event.value for scalars in logged.values() for event in scalars) < round_s
