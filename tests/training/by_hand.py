"""The local steps of one client as a plain PyTorch loop: nothing of the loop under test but the order of rows."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch.nn.functional import cross_entropy

from fedtune.recipe import TrainingSection
from fedtune.seeds import derive_seed
from fedtune.state import State
from fedtune.training.base import Assignment
from fedtune.training.order import local_steps
from tests.training.parts import HookedSquare, load_plain, plain_targets

Schedule = Callable[[torch.optim.Optimizer, int], Any]
SCHEDULES: dict[str, Schedule] = {
    "constant": lambda o, _: torch.optim.lr_scheduler.ConstantLR(o, 1.0),
    "cosine": torch.optim.lr_scheduler.CosineAnnealingLR,
    "linear": lambda o, total: torch.optim.lr_scheduler.LinearLR(o, 1.0, 0.0, total),
}
Penalty = Callable[[Mapping[str, torch.nn.Parameter]], torch.Tensor | float]
"""What is added to the loss of a step, as a function of the adapter's tensors."""


def loss_sum_and_targets(model: torch.nn.Module, batch: dict[str, torch.Tensor]) -> tuple[torch.Tensor, int]:
    """Cross entropy from the logits, by hand: summed over rows, or over the answer's tokens."""
    labels = batch["labels"]
    logits = model(**{name: t for name, t in batch.items() if name != "labels"}).logits
    if labels.ndim > 1:
        logits, labels = logits[:, :-1].flatten(0, 1), labels[:, 1:].flatten()
        logits, labels = logits[labels >= 0], labels[labels >= 0]
    return cross_entropy(logits, labels, reduction="sum"), len(labels)


def train_by_hand(
    folder: Path, task: str, section: TrainingSection, share: Assignment, penalty: Penalty = lambda _: 0.0
) -> tuple[State, float]:
    """The same client on a model of its own; returns its state and the mean of the steps' losses."""
    model = load_plain(folder, task).requires_grad_(False)
    adapter = HookedSquare(model, plain_targets(model), () if task == "causal-lm" else ("classifier",))
    adapter.load(share.state)
    parameters = [p for name, p in adapter.parameters().items() if share.trained is None or name in share.trained]
    optimizer = _optimizer(parameters, section)
    steps = list(local_steps(len(share.rows), section, share.seed))
    schedule = SCHEDULES[section.schedule](optimizer, len(steps))
    losses = []
    model.train()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(derive_seed(share.seed, "dropout"))
        for step in steps:
            parts = [loss_sum_and_targets(model, share.rows.batch(indices)) for indices in step]
            loss = sum(part for part, _ in parts) / sum(n for _, n in parts)
            optimizer.zero_grad()
            (loss + penalty(adapter.parameters())).backward()
            if section.max_grad_norm is not None:
                torch.nn.utils.clip_grad_norm_(parameters, section.max_grad_norm)
            optimizer.step()
            schedule.step()
            losses.append(loss.item())
    return adapter.read(), sum(losses) / len(losses)


def _optimizer(parameters: list[torch.nn.Parameter], section: TrainingSection) -> torch.optim.Optimizer:
    if section.optimizer == "sgd":
        return torch.optim.SGD(parameters, lr=section.lr, momentum=section.momentum, foreach=False)
    return torch.optim.AdamW(parameters, lr=section.lr, weight_decay=0.0, foreach=False)
