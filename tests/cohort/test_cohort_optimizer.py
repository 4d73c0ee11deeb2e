"""Clients' rows move as torch's own optimisers move a client's tensors, each at its own rate and count of steps."""

from typing import Any

import pytest
import torch
from torch import nn
from torch.nn.utils import clip_grad_norm_

from fedtune.cohort.columns import Columns
from fedtune.cohort.optimizer import COHORT_OPTIMIZERS, clip_rows
from fedtune.cohort.stacks import Stacks
from fedtune.recipe import TrainingSection
from fedtune.training.optimizer import make_optimizer, set_rate

SHAPES = {"a.lora_A": (3, 5), "a.lora_B": (4, 3), "head.classifier.bias": (7,), "head.classifier.weight": (7, 4)}


@pytest.mark.parametrize(
    "options",
    [
        {"optimizer": "adamw", "lr": 1e-2, "weight_decay": 0.1},
        {"optimizer": "adamw", "lr": 1e-2, "head_lr": 3e-3},
        {"optimizer": "sgd", "lr": 0.1, "weight_decay": 0.01},
        {"optimizer": "sgd", "lr": 0.1, "momentum": 0.9, "head_lr": 0.3},
    ],
)
def test_steps_are_torchs(options: dict[str, Any]) -> None:
    training, draw = TrainingSection(**options), torch.Generator().manual_seed(3)
    alone = [{n: nn.Parameter(torch.randn(s, generator=draw)) for n, s in SHAPES.items()} for _ in range(3)]
    stacks = Stacks(Columns.of(alone[0], sorted(SHAPES), training), 3, like=torch.zeros(0))
    for row, tensors in enumerate(alone):
        stacks.put(row, tensors)
    together = COHORT_OPTIMIZERS[training.optimizer](stacks, training)
    optimizers = [make_optimizer(tensors, training) for tensors in alone]
    for turn in range(5):
        factors = {row: 1.0 / (1 + turn * row) for row in range(3) if row != turn % 3}
        for row, factor in factors.items():
            for name, gradient in stacks.steered(row).items():
                alone[row][name].grad = torch.randn(SHAPES[name], generator=draw)
                gradient.grad.copy_(alone[row][name].grad)
            set_rate(optimizers[row], factor)
            clip_grad_norm_(alone[row].values(), 1.0)
            optimizers[row].step()
        clip_rows(stacks.gradients_KQ, 1.0)
        together.step(factors)
    for row, tensors in enumerate(alone):
        for name, found in stacks.of(row).items():
            torch.testing.assert_close(found, tensors[name].detach(), atol=1e-6, rtol=0)


def test_what_is_not_trained_stands_still_and_comes_last() -> None:
    tensors = {name: torch.ones(shape) for name, shape in SHAPES.items()}
    training = TrainingSection(optimizer="sgd", lr=0.5)
    columns = Columns.of(tensors, ["a.lora_B"], training)
    assert columns.trained == 12
    assert columns.total == sum(t.numel() for t in tensors.values())
    stacks = Stacks(columns, 2, like=torch.zeros(0))
    for row in range(2):
        stacks.put(row, tensors)
    assert [name for name, leaf in stacks.leaves([1, 0]).items() if leaf.requires_grad] == ["a.lora_B"]
    assert list(stacks.steered(0)) == ["a.lora_B"]
    stacks.gradients_KQ.fill_(1.0)
    COHORT_OPTIMIZERS["sgd"](stacks, training).step({0: 1.0})
    assert stacks.of(0)["a.lora_B"].unique().tolist() == [0.5]
    assert all(torch.equal(stacks.of(0)[n], t) for n, t in tensors.items() if n != "a.lora_B")
    assert all(torch.equal(stacks.of(1)[n], t) for n, t in tensors.items())
