"""Whole runs on the virtual clock: late clients in the records, the same bytes resumed and with two workers."""

import json
from pathlib import Path
from typing import Any

import pytest

from fedtune.recipe import Recipe
from fedtune.runs.folder import RunFolder
from fedtune.runs.record import ClientRecord
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
