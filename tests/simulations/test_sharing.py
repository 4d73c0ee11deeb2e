"""A simulation says who shares passes, and ends alike with one process or two, resumed, and with clients in turns."""

from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file

from fedtune.cohort.step import CohortStep
from fedtune.recipe import Recipe
from fedtune.runs.folder import RunFolder
from fedtune.runs.record import RoundRecord
from fedtune.training.resident import forget_resident
from server.listener import Listener
from simulations.sharing import sharing
from simulations.simulate import simulate
from tests.worlds import tiny_recipe, write_rows

EXAMPLE = {"unit": "example", "epsilon": 8.0, "delta": 1e-5, "sampling_rate": 0.1}


def recipe(
    folder: Path,
    *,
    dropout: float | None = 0.0,
    per_round: int = 0,
    over_select: float = 0.0,
    buffer: int = 0,
    simulation: dict[str, Any] | None = None,
    privacy: dict[str, Any] | None = None,
) -> Recipe:
    return Recipe.model_validate(
        {
            "model": {"name": str(folder), "labels": ("a", "b"), "dropout": dropout},
            "training": {"device": "cpu"},
            "federation": {"clients_per_round": per_round, "over_select": over_select, "buffer": buffer},
            "simulation": simulation or {},
            "privacy": privacy or {},
        }
    )


@pytest.mark.parametrize(
    ("options", "clients", "said"),
    [
        ({}, 100, "up to 25 clients share each pass through the base model"),
        ({"per_round": 25}, 100, "up to 7 clients share each pass through the base model"),
        ({}, 100, "; rows end to end without padding; last layer on the class token alone"),
        ({}, 16, "up to 4 clients share each pass through the base model"),
        (
            {},
            4,
            "a round asks for too few to share passes; rows end to end without padding; last layer on the class token",
        ),
        (
            {"buffer": 2},
            100,
            "clients take turns, because in asynchronous rounds each begins and ends when it does; rows",
        ),
        ({"privacy": EXAMPLE}, 4, "clients take turns, because a round asks for too few to share passes"),
        (
            {"dropout": None},
            100,
            "up to 25 clients share each pass through the base model; rows end to end without padding",
        ),
        ({"dropout": None}, 100, "; each row with dropout of its own; last layer on the class token alone"),
        ({"per_round": 60, "over_select": 0.5}, 100, "up to 23 clients share each pass through the base model"),
        ({"per_round": 60, "simulation": {"rows_per_s": 1.0}}, 100, "up to 4 clients share each pass"),
        ({"per_round": 3, "simulation": {"rows_per_s": 1.0}}, 100, "a round asks for too few to share passes"),
        (
            {"dropout": None, "privacy": EXAMPLE},
            100,
            "rows of up to 25 clients share each pass through the base model; each row with a gradient of its own",
        ),
    ],
)
def test_what_is_said(
    tiny_bert_folder: Path, options: dict[str, object], clients: int, said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("simulations.groups.cores", lambda: 4)
    try:
        assert said in sharing(recipe(tiny_bert_folder, **options), clients)
    finally:
        forget_resident()


class Stop(Listener):
    """Stops a run after its first round."""

    def finished(self, record: RoundRecord) -> None:
        if record.round == 1:
            raise KeyboardInterrupt


def test_a_run_that_shares_passes_is_the_same_with_workers_resumed_and_in_turns(
    tiny_bert_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = write_rows(tmp_path / "rows.jsonl", 160)

    def ends(name: str, **options: Any) -> RunFolder:
        run = tiny_recipe(
            tiny_bert_folder,
            rows,
            tmp_path,
            data={"partition": {"clients": 20}},
            federation={"rounds": 2},
            training={"optimizer": "sgd", "lr": 0.1},
            run={"name": name, "folder": str(tmp_path)},
        )
        still = run.model.model_copy(update={"dropout": 0.0})
        return RunFolder.open(simulate(run.model_copy(update={"model": still}), **options))

    monkeypatch.setattr("simulations.groups.cores", lambda: 4)
    lots: list[int] = []
    real = CohortStep._train_lot
    monkeypatch.setattr(CohortStep, "_train_lot", lambda self, lot: lots.append(len(lot)) or real(self, lot))
    one = ends("one")
    assert lots[:4] == [5, 5, 5, 5]
    digests = [record.state_digest for record in one.rounds()]
    assert [record.state_digest for record in ends("two", workers=2).rounds()] == digests
    with pytest.raises(KeyboardInterrupt):
        ends("resumed", listener=Stop())
    assert [record.state_digest for record in ends("resumed", resume=True).rounds()] == digests

    monkeypatch.setattr("fedtune.cohort.step.fits", lambda _: "the test says so")
    turns = ends("turns")
    left, right = (load_file(folder.adapter_path / "adapter_model.safetensors") for folder in (one, turns))
    assert left.keys() == right.keys()
    assert max(float((left[name] - right[name]).abs().max()) for name in left) <= 1e-6
