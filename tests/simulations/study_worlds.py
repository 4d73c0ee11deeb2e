"""A study small enough for a test, and outcomes made by hand."""

import json
from pathlib import Path

from simulations.studies.outcome import Outcome
from simulations.studies.plan import Cell, Contender, Plan
from tests.worlds import write_rows

RATES = (1e-2, 3e-2)


def tiny_plan(model: Path, folder: Path, **changes: object) -> Plan:
    """FedIT and Fed-SB with two rates on one split and one seed: six cells over a random two-layer BERT."""
    rows = write_rows(folder / "rows.jsonl", 90)
    base = f"""
        [model]
        name = {json.dumps(str(model))}
        labels = ["negative", "positive"]
        max_length = 16
        [data]
        source = {json.dumps(str(rows))}
        holdout_fraction = 0.25
        [data.partition]
        clients = 3
        [adapter]
        rank = 4
        targets = "attention"
        [aggregation]
        diagnose = true
        [federation]
        rounds = 2
        evaluate_every = 0
        [training]
        batch_size = 4
        steps = 3
        device = "cpu"
        [run]
        tensorboard = false
    """
    values = {
        "form": "tiny",
        "base": base,
        "test_rows": 30,
        "contenders": {
            "fedit": Contender(settings=(), rates=RATES),
            "fed-sb": Contender(settings=("adapter.rank=8",), rates=RATES),
        },
        "splits": {"iid": ("data.partition.scheme=iid",)},
        "seeds": (1,),
        "tuning_split": "iid",
        "tuning_seed": 9,
    }
    return Plan.model_validate({**values, **changes})


def outcome(method: str, split: str = "iid", *, seed: int = 1, lr: float = 1e-2, **figures: object) -> Outcome:
    """One of the report's, with these figures."""
    cell = Cell(stage="report", method=method, split=split, seed=seed, lr=lr)
    return Outcome.model_validate({"cell": cell, **figures})


def tried(method: str, lr: float, **figures: object) -> Outcome:
    """One of the tuning's."""
    cell = Cell(stage="tuning", method=method, split="iid", seed=9, lr=lr)
    return Outcome.model_validate({"cell": cell, **figures})
