"""A run that starts from noised gradients: all clients count alike, whatever they say of their rows."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import torch

from fedtune.errors import RunError
from fedtune.recipe import Recipe
from fedtune.runs.folder import RunFolder
from fedtune.training.resident import resident
from fedtune.wire import Task, Update, encode
from server.exchange import Reply
from server.gradients import private_gradients
from simulations.simulate import simulate
from tests.worlds import tiny_recipe, write_rows


def starting(model: Path, folder: Path) -> Recipe:
    return tiny_recipe(
        model,
        write_rows(folder / "rows.jsonl", 60),
        folder,
        adapter={"init": "dp-gradient", "init_rows": 12},
        privacy={"unit": "example", "delta": 1e-5, "noise_multiplier": 1.0, "sampling_rate": 0.3},
        training={"steps": 2, "max_grad_norm": None},
        aggregation={"weights": "uniform"},
        federation={"rounds": 2},
    )


def test_its_factors_come_from_the_clients_and_are_broadcast_once(tiny_bert_folder: Path, tmp_path: Path) -> None:
    records = RunFolder.open(simulate(starting(tiny_bert_folder, tmp_path))).rounds()
    assert [record.round for record in records] == [0, 1, 2]
    assert all(client.outcome == "ok" for record in records[1:] for client in record.clients)
    assert records[0].other_bytes_up > 4 * records[1].clients[0].bytes_up
    assert records[1].bytes_down() > records[2].bytes_down()


@dataclass
class Answers:
    """An exchange, tasking and listener in one, with replies that were made before."""

    replies: list[Update]
    notes: list[str] = field(default_factory=list)

    def task(self, kind: str, round_: int, world: Any) -> Task:
        return Task(kind, "run", round_, {}, "", "", "00", {})  # type: ignore[arg-type]

    def payloads(self, task: Task, names: list[str]) -> dict[str, bytes]:
        return dict.fromkeys(names, b"")

    def ask(self, payloads: dict[str, bytes], **_: Any) -> list[Reply]:
        return [Reply(reply.client, encode(reply), "", "", 0.0) for reply in self.replies]

    def asked(self, *_: Any) -> None:
        pass

    def noted(self, note: str) -> None:
        self.notes.append(note)


def test_the_mean_is_uniform_and_a_count_of_rows_is_refused(tiny_bert_folder: Path, tmp_path: Path) -> None:
    """A client that weighs its gradient by its rows would tell them, and move the mean by more than the clip."""
    recipe = starting(tiny_bert_folder, tmp_path)
    home = resident(recipe)

    def reply(client: str, value: float, examples: int = 1) -> Update:
        tensors = {name: torch.full(shape, value) for name, shape in home.attached.target_shapes().items()}
        return Update("run", 0, client, "00", (), tensors, examples)

    def mean(*replies: Update) -> tuple[set[float], Answers]:
        with_ = Answers(list(replies))
        found = private_gradients(recipe, home, with_, with_, [r.client for r in replies], with_)  # type: ignore[arg-type]
        return {number for tensor in found.values() for number in tensor.unique().tolist()}, with_

    found, answers = mean(reply("a", 1.0), reply("b", 4.0), reply("c", 100.0, examples=9))
    assert found == {2.5}
    assert "a gradient over 9 rows was not asked for" in answers.notes[0]
    with pytest.raises(RunError, match=r"adapter.init = 'dp-gradient'"):
        mean(reply("c", 100.0, examples=9))
