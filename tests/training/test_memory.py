"""Running out of memory is one sentence, and leaves the resident fit for the next client."""

import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch

from fedtune.data.base import Batch, Rows
from fedtune.errors import TrainingError
from fedtune.state import digest
from fedtune.training.evaluate import score_rows
from fedtune.training.gradient import mean_gradients
from fedtune.training.loop import train_client
from fedtune.training.memory import within_memory
from fedtune.training.resident import Resident
from tests.training.parts import CPU, assignment, text_rows, tiny_resident

ACTIONS: dict[str, tuple[Callable[[Resident, Rows], object], str]] = {
    "train": (lambda home, rows: train_client(home, assignment(home, rows)), "lower training.batch_size and raise"),
    "evaluate": (lambda home, rows: score_rows(home, home.initial, rows), "lower training.eval_batch_size."),
    "gradient": (lambda home, rows: mean_gradients(home, rows, limit=4, seed=0), "lower training.batch_size."),
}


@dataclass(frozen=True)
class VastRows:
    """Rows whose batch asks the machine for a petabyte."""

    def __len__(self) -> int:
        return 4

    def batch(self, indices: list[int]) -> Batch:
        return {"input_ids": torch.empty(2**50, dtype=torch.uint8), "labels": torch.zeros(4)}


@pytest.mark.parametrize("action", ACTIONS)
def test_a_batch_that_does_not_fit_says_what_to_lower_and_harms_no_one(action: str, tiny_bert_folder: Path) -> None:
    home = tiny_resident(tiny_bert_folder)
    good = assignment(home, text_rows(5))
    expected = digest(train_client(home, good).state)
    act, advice = ACTIONS[action]
    with pytest.raises(TrainingError, match=f"^cpu ran out of memory; {re.escape(advice)}"):
        act(home, VastRows())
    assert digest(train_client(home, good).state) == expected


def test_a_gpu_that_is_full_is_said_alike_and_other_errors_pass() -> None:
    with (
        pytest.raises(TrainingError, match=r"^cpu ran out of memory; buy more\.$"),
        within_memory(CPU, advice="buy more"),
    ):
        raise torch.OutOfMemoryError
    with pytest.raises(RuntimeError, match=r"^shapes$"), within_memory(CPU, advice="buy more"):
        raise RuntimeError("shapes")
