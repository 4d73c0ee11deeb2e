"""Whole runs on the virtual clock: deadlines and losses in the records, the same bytes resumed and with two workers."""

import json
from pathlib import Path
from typing import Any

import pytest

from fedtune.recipe import Recipe
from fedtune.runs.end_table import rows as rows_of
from fedtune.runs.folder import RunFolder
from fedtune.runs.page import render_page
from fedtune.runs.record import ClientRecord
from fedtune.runs.summary import summarise
from fedtune.runs.virtual import time_to_accuracy
from fedtune.runs.words import seconds_text
from server.listener import Listener
from simulations.simulate import simulate
from tests.worlds import tiny_recipe, write_rows

DEVICES: dict[str, Any] = {
    "rows_per_s": 1.0,
    "speed_spread": 0.8,
    "jitter": 0.3,
    "up_mbps": 0.05,
    "down_mbps": 0.2,
    "bandwidth_spread": 0.5,
    "latency_s": 0.5,
    "availability": "diurnal",
    "online_share": 0.6,
    "day_s": 600.0,
    "fail_before_training": 0.05,
    "fail_in_upload": 0.05,
}
SAMPLED = {"scheme": "sampled", "clients": 3_000, "rows_per_client": 8, "rows_spread": 0.5, "label_alpha": 0.5}


@pytest.fixture(scope="module")
def rows(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_rows(tmp_path_factory.mktemp("rows") / "rows.jsonl", 120)


@pytest.fixture
def recipe(tiny_bert_folder: Path, rows: Path, tmp_path: Path) -> Any:
    """By name: 3,000 clients of whom twelve are asked and eight wanted, with lossy uploads that clients remember."""

    def make(name: str, **sections: dict[str, Any]) -> Recipe:
        base: dict[str, dict[str, Any]] = {
            "data": {"holdout_fraction": 0.2, "partition": SAMPLED},
            "compression": {"upload": ["ternary", "entropy"], "feedback": "classic"},
            "federation": {
                "rounds": 2,
                "clients_per_round": 8,
                "over_select": 0.25,
                "deadline_s": 8.0,
                "evaluate_clients": 2,
            },
            "simulation": DEVICES,
            "run": {"name": name, "folder": str(tmp_path)},
        }
        return tiny_recipe(tiny_bert_folder, rows, tmp_path, **{**base, **sections})

    return make


def lasting(path: Path) -> list[dict[str, Any]]:
    """What rounds.jsonl says, without this machine's clock."""
    lines = [json.loads(line) for line in (path / "rounds.jsonl").read_text().splitlines()]
    return [{key: value for key, value in line.items() if key not in ("finished_at", "seconds")} for line in lines]


class StopsInRoundTwo(Listener):
    """Ends a run from outside while the replies of its second round come in."""

    def __init__(self) -> None:
        self._round = 0

    def asked(self, round_: int, clients: int, what: str) -> None:
        self._round = round_

    def replied(self, record: ClientRecord, what: str) -> None:
        if self._round == 2:
            raise KeyboardInterrupt


@pytest.fixture
def no_pictures(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("server.run.draw_plots", lambda _: {})


def test_a_run_repeats_resumes_and_shares_its_work_to_the_byte(recipe: Any, no_pictures: None) -> None:
    whole = simulate(recipe("whole"))
    outcomes = [client.outcome for record in RunFolder.open(whole).rounds() for client in record.clients]
    assert {"ok", "late"} <= set(outcomes)
    assert len(outcomes) == 2 * 10
    stopped = recipe("stopped")
    with pytest.raises(KeyboardInterrupt):
        simulate(stopped, listener=StopsInRoundTwo())
    assert len(lasting(Path(stopped.run.folder) / stopped.run.name)) == 2
    assert lasting(simulate(stopped, resume=True, workers=2)) == lasting(whole)


def test_deadline_losses_and_the_clock_are_in_the_records_and_the_end_table(recipe: Any) -> None:
    path = simulate(recipe("once", federation={"rounds": 2, "clients_per_round": 10, "deadline_s": 14.0}))
    folder = RunFolder.open(path)
    records = folder.rounds()
    clock = 0.0
    for record in records:
        assert record.virtual is not None
        clock += record.virtual.seconds
        assert record.virtual.clock_s == pytest.approx(clock)
        assert 1_500 < record.virtual.online < 2_100
        for client in record.clients:
            assert client.seconds is not None
            assert client.seconds <= 14.0
            assert (client.bytes_up > 0) == (client.outcome == "ok")
            assert client.bytes_down > 0
    checkpoint = folder.checkpoints.latest()
    assert checkpoint is not None
    assert checkpoint.extra["clock_s"] == pytest.approx(clock)
    summary = summarise(folder)
    assert summary.virtual is not None
    assert summary.virtual.clock_s == pytest.approx(clock)
    assert dict(rows_of(summary))["virtual time"].startswith(f"{seconds_text(clock)} in all, ")
    scores = [record.central.accuracy for record in records if record.central]
    first = next(r for r in records if r.central and r.central.accuracy == max(scores))
    assert first.virtual
    assert time_to_accuracy(records, max(scores)) == first.virtual.clock_s
    assert time_to_accuracy(records, 1.1) is None
    assert (folder.plots_path / "time.png").stat().st_size > 10_000
    assert "Virtual time of a round" in render_page(folder)


def test_without_simulated_devices_nothing_of_a_clock_is_written(recipe: Any, no_pictures: None) -> None:
    path = simulate(recipe("plain", simulation={}, federation={"rounds": 1, "clients_per_round": 3}))
    assert all("virtual" not in line for line in lasting(path))
    checkpoint = RunFolder.open(path).checkpoints.latest()
    assert checkpoint is not None
    assert "clock_s" not in checkpoint.extra


def test_noise_at_the_coordinator_hides_the_rounds_virtual_time(recipe: Any, no_pictures: None) -> None:
    privacy = {"unit": "client", "noise_multiplier": 1.0, "delta": 1e-5, "clip": 1.0}
    drawn = {"population": 3_000, "sampling_rate": 1e-3}
    plain: dict[str, Any] = {"data": {"partition": SAMPLED, "holdout_fraction": 0.0}, "compression": {}}
    federation = {"rounds": 1, "deadline_s": 14.0}
    path = simulate(
        recipe("hidden", privacy=privacy | drawn, federation=federation, aggregation={"weights": "uniform"}, **plain)
    )
    assert all(record.virtual is None for record in RunFolder.open(path).rounds())
