"""FedProx and SCAFFOLD: the steps are those of a plain loop that has the terms in its loss."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from fedtune.state import State, digest
from fedtune.training.adjust import adjustments
from fedtune.training.base import Assignment
from fedtune.training.loop import train_client
from tests.training.by_hand import Penalty, train_by_hand
from tests.training.parts import ListRows, answer_rows, assignment, random_state, text_rows, tiny_resident

TASKS = {
    "sequence-classification": ("tiny_bert_folder", text_rows),
    "causal-lm": ("tiny_gpt2_folder", answer_rows),
}
OPTIMISERS = [
    {"optimizer": "adamw", "lr": 1e-3, "max_grad_norm": 0.5},
    {"optimizer": "sgd", "lr": 0.05, "max_grad_norm": None},
    {"optimizer": "sgd", "lr": 0.05, "momentum": 0.9, "max_grad_norm": 1.0, "schedule": "cosine"},
]


def pulled_to(start: State, strength: float) -> Penalty:
    """(μ/2)·‖w − w_start‖²."""
    return lambda tensors: strength / 2 * sum((p - start[name]).square().sum() for name, p in tensors.items())


def along(correction: Mapping[str, torch.Tensor]) -> Penalty:
    """⟨c − cₖ, w⟩, whose gradient is c − cₖ."""
    return lambda tensors: sum((correction[name] * p).sum() for name, p in tensors.items())


def distance(left: State, right: State) -> float:
    return max(float((left[name] - right[name]).abs().max()) for name in left)


@pytest.mark.parametrize("options", OPTIMISERS)
@pytest.mark.parametrize("task", TASKS)
def test_fedprox_is_a_term_of_the_loss(task: str, options: dict[str, Any], request: pytest.FixtureRequest) -> None:
    fixture, make_rows = TASKS[task]
    folder = request.getfixturevalue(fixture)
    resident = tiny_resident(folder, task, epochs=3, batch_size=4, proximal=3.0, **options)
    share = assignment(resident, make_rows(18))
    result = train_client(resident, share)
    section = resident.recipe.training
    expected, loss = train_by_hand(folder, task, section, share, pulled_to(share.state, 3.0))
    assert distance(result.state, expected) <= 1e-6
    assert result.metrics["loss"] == pytest.approx(loss, abs=2e-6)
    without, _ = train_by_hand(folder, task, section, share)
    assert distance(result.state, without) > 1e-4


@pytest.mark.parametrize("options", OPTIMISERS)
@pytest.mark.parametrize("task", TASKS)
def test_scaffolds_correction_is_a_term_of_the_loss(
    task: str, options: dict[str, Any], request: pytest.FixtureRequest
) -> None:
    fixture, make_rows = TASKS[task]
    folder = request.getfixturevalue(fixture)
    resident = tiny_resident(folder, task, epochs=3, batch_size=4, **options)
    correction = {name: t / 10 for name, t in random_state(resident, 7).items()}
    share = replace(assignment(resident, make_rows(18)), correction=correction)
    result = train_client(resident, share)
    expected, _ = train_by_hand(folder, task, resident.recipe.training, share, along(correction))
    assert distance(result.state, expected) <= 1e-6
    without, _ = train_by_hand(folder, task, resident.recipe.training, share)
    assert distance(result.state, without) > 1e-4


def test_both_terms_add_up_and_reach_only_what_is_trained(tiny_bert_folder: Path) -> None:
    resident = tiny_resident(tiny_bert_folder, epochs=2, batch_size=4, accumulate=2, proximal=2.0)
    correction = {name: t / 10 for name, t in random_state(resident, 7).items()}
    trained = tuple(name for name in correction if not name.startswith("head."))
    share = replace(assignment(resident, text_rows(18)), correction=correction, trained=trained)
    pull, push = pulled_to(share.state, 2.0), along(correction)
    expected, _ = train_by_hand(
        tiny_bert_folder, "sequence-classification", resident.recipe.training, share, lambda p: pull(p) + push(p)
    )
    assert distance(train_client(resident, share).state, expected) <= 1e-6


def test_a_strong_pull_keeps_a_client_where_it_started(tiny_bert_folder: Path) -> None:
    """Gradient descent ends where the pull holds the gradient: as far from the start as 1/μ."""
    moved = {}
    for strength in (0.0, 20.0, 200.0):
        resident = tiny_resident(
            tiny_bert_folder, optimizer="sgd", lr=4e-3, steps=40, max_grad_norm=None, proximal=strength
        )
        share = assignment(resident, text_rows(8))
        moved[strength] = distance(train_client(resident, share).state, share.state)
    assert moved[0.0] > 2 * moved[20.0] > 10 * moved[200.0] > 0


def test_without_corrections_nothing_is_done_to_the_gradients(tiny_bert_folder: Path) -> None:
    """Not even a zero is added: the bits are those of a step that knows of no corrections."""
    resident = tiny_resident(tiny_bert_folder)
    parameters, axes = resident.attached.parameters(), resident.attached.axes()
    share = assignment(resident, text_rows(4))
    assert adjustments(parameters, share, axes, proximal=0.0) == []
    assert len(adjustments(parameters, replace(share, slots=(0,)), axes, proximal=1.0)) == 2


def test_a_step_with_nothing_to_learn_from_stays_one(tiny_gpt2_folder: Path) -> None:
    """No gradient arrives, so there is none to correct."""
    resident = tiny_resident(tiny_gpt2_folder, "causal-lm", steps=1, proximal=1.0)
    silent = ListRows([{"input_ids": [5, 6, 7], "labels": [-100] * 3}] * 4)
    share = assignment(resident, silent)
    corrected = replace(share, correction=random_state(resident, 7), slots=(0, 2))
    assert digest(train_client(resident, corrected).state) == digest(share.state)


def test_what_a_client_starts_from_and_is_corrected_by_is_never_written_to(tiny_bert_folder: Path) -> None:
    resident = tiny_resident(tiny_bert_folder, lr=0.05, proximal=1.0)
    share: Assignment = replace(assignment(resident, text_rows(9)), correction=random_state(resident, 7))
    before = digest(share.state), digest(share.correction)
    train_client(resident, share)
    assert (digest(share.state), digest(share.correction)) == before
