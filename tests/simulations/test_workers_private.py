"""Under privacy a client may be answered for by one process now and by another then: no ledger looks broken for it."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from fedtune.runs.folder import RunFolder
from simulations.groups import Answers, Cut, Jobs
from simulations.simulate import simulate
from simulations.workers import Workers
from tests.worlds import tiny_recipe, write_rows


class Changing:
    """Two forks that take turns: neither sees the entries of the ledger that the other is shown."""

    def __init__(self, answers: Answers, count: int, cut: Cut) -> None:
        self._forks = [Workers(answers, 1, cut) for _ in range(count)]
        self._turn = 0

    def __enter__(self) -> "Changing":
        return self

    def __exit__(self, *error: object) -> None:
        for fork in self._forks:
            fork.__exit__(None, None, None)

    def answer_all(self, jobs: Jobs) -> Iterator[bytes]:
        self._turn += 1
        return self._forks[self._turn % 2].answer_all(jobs)


def test_clients_that_change_processes_follow_the_ledger(
    tiny_bert_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("server.run.draw_plots", lambda _: None)
    monkeypatch.setattr("simulations.simulate.Workers", Changing)
    recipe = tiny_recipe(
        tiny_bert_folder,
        write_rows(tmp_path / "rows.jsonl", 40),
        tmp_path,
        data={"partition": {"clients": 2}},
        federation={"rounds": 4},
        aggregation={"weights": "uniform"},
        training={"steps": 1, "max_grad_norm": None},
        privacy={"unit": "example", "epsilon": 8.0, "delta": 1e-5, "sampling_rate": 0.2},
    )
    rounds = RunFolder.open(simulate(recipe, workers=2)).rounds()
    assert [[client.outcome for client in record.clients] for record in rounds] == [[]] + 4 * [["ok", "ok"]]
