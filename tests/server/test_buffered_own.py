"""Asynchronous rounds of clients that differ, by ranks and by copies of their updates (EF21): FedBuff in float64."""

from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from fedtune.compression import make_pipeline
from fedtune.seeds import derive_seed
from fedtune.state import State, shapes_of
from tests.server.buffered_runs import BUFFERS, PACES, UNEVEN, run_paced, timed_recipe
from tests.worlds import write_rows

EXPONENT = 0.7
Sent = tuple[State, State, float, int]
"""An update in full shapes, 1 where it was trained and 0 elsewhere, its examples, its staleness."""


@pytest.fixture
def recipe(tiny_bert_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Any]:
    """The run of `BUFFERS`, with sections that change any key."""
    monkeypatch.setattr("server.run.draw_plots", lambda _: {})
    rows = write_rows(tmp_path / "rows.jsonl", 80)

    def make(federation: dict[str, Any], **sections: dict[str, Any]) -> Any:
        whole = {"rounds": 4, "buffer": 2, "staleness_exponent": EXPONENT, "evaluate_every": 0, **federation}
        own = {"data": {"partition": UNEVEN}, "training": {"steps": None}, **sections}
        return timed_recipe(tiny_bert_folder, rows, tmp_path, "own", federation=whole, **own)

    return make


def after(model: State, updates: list[Sent]) -> State:
    """The step of the paper, each number over those who trained it."""
    reached = {}
    for name, start in model.items():
        weights = sum((examples * trained[name] for _, trained, examples, _ in updates), torch.zeros(()))
        step = sum(
            examples * (1.0 + stale) ** -EXPONENT * delta[name].double() for delta, _, examples, stale in updates
        )
        reached[name] = start.double() + torch.where(weights > 0, step / weights, 0.0)
    return reached


def furthest(one: State, other: State) -> float:
    return max(float((one[name] - other[name]).abs().max()) for name in one)


def test_an_update_is_its_clients_own_copy_and_what_was_sent_and_its_age_counts_after_that(recipe: Any) -> None:
    run = recipe({}, compression={"upload": ["top-k"], "density": 0.2, "feedback": "ef21"})
    folder, place = run_paced(run, PACES)
    model, pipeline = folder.checkpoints.load("0").state, make_pipeline(run.compression)
    whole = {name: torch.ones(tensor.shape, dtype=torch.float64) for name, tensor in model.items()}
    copies: dict[str, State] = defaultdict(lambda: {name: 0.0 * tensor for name, tensor in whole.items()})
    last: dict[str, int] = defaultdict(int)
    for round_, buffer in enumerate(BUFFERS, start=1):
        updates = []
        for number, begun in buffer:
            client = f"client-{number}"
            update = place.updates[begun, client]
            assert update.feedback_round == last[client]
            seed = derive_seed(run.run.seed, "upload", round_=begun, client=client)
            sent = pipeline.decode(update.tensors, shapes_of(model), seed=seed)
            copies[client] = {name: copy + sent[name].double() for name, copy in copies[client].items()}
            last[client] = begun
            updates.append((copies[client], whole, float(update.examples), round_ - begun))
        reached = folder.checkpoints.load(str(round_)).state
        assert furthest(after(model, updates), reached) < 1e-6
        model = reached
    assert last == {"client-0": 4, "client-1": 1, "client-2": 3}


def test_each_number_is_averaged_over_those_who_trained_it_by_rows_and_staleness(recipe: Any) -> None:
    """Two of the three clients have the leading 2 by 2 of each square; in round 3 nobody has more."""
    folder, place = run_paced(recipe({"ranks": ["client-0=2", "client-1=2"]}), PACES)
    model = folder.checkpoints.load("0").state
    squares = [name for name in model if name.endswith(".R")]
    for round_, buffer in enumerate(BUFFERS, start=1):
        updates = []
        for number, begun in buffer:
            update = place.updates[begun, f"client-{number}"]
            delta = {name: torch.zeros(tensor.shape, dtype=torch.float64) for name, tensor in model.items()}
            trained = {name: tensor.clone() for name, tensor in delta.items()}
            for name, tensor in update.tensors.items():
                part = (slice(0, 2),) * 2 if name in squares and number < 2 else ()
                delta[name][part], trained[name][part] = tensor.double(), 1.0
            updates.append((delta, trained, float(update.examples), round_ - begun))
        reached = folder.checkpoints.load(str(round_)).state
        assert furthest(after(model, updates), reached) < 1e-6
        outside = max(float((reached[name] - model[name])[2:].abs().max()) for name in squares)
        assert (outside > 1e-4) == (round_ != 3)
        model = reached
