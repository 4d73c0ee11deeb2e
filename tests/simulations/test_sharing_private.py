"""A private simulation whose clients share passes: each spends what was planned, and its ledger holds."""

from pathlib import Path

import pytest

from fedtune.audit.ledger import read_ledger, spent, verify
from fedtune.cohort import private_step
from fedtune.privacy.plan import plan_of
from fedtune.runs.folder import RunFolder
from simulations.simulate import simulate
from tests.worlds import tiny_recipe, write_rows

CLIENTS = 10
EXAMPLE = {"unit": "example", "delta": 1e-5, "noise_multiplier": 1.0, "sampling_rate": 0.3, "clip": 0.1}


def test_clients_that_share_passes_spend_what_was_planned(
    tiny_bert_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = tiny_recipe(
        tiny_bert_folder,
        write_rows(tmp_path / "rows.jsonl", 120),
        tmp_path,
        privacy=EXAMPLE,
        aggregation={"weights": "uniform"},
        training={"steps": 2, "max_grad_norm": None},
        federation={"rounds": 2, "evaluate_every": 0},
        data={"partition": {"clients": CLIENTS}},
    )
    monkeypatch.setattr("simulations.groups.cores", lambda: 1)
    lots: list[int] = []
    real = private_step.train_private_lot
    monkeypatch.setattr(private_step, "train_private_lot", lambda works, lot: lots.append(len(lot)) or real(works, lot))
    run = RunFolder.open(simulate(recipe, workers=1))
    assert lots == [CLIENTS] * 2
    records = run.rounds()
    assert [{client.outcome for client in record.clients} for record in records[1:]] == [{"ok"}] * 2
    assert len({record.state_digest for record in records}) == 3
    ledger = read_ledger(run.path)
    verify(ledger)
    tally = spent(ledger)
    assert len(tally.names) == CLIENTS
    assert {tally.of(name) for name in tally.names} == {plan_of(recipe).planned()}
