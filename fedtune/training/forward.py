"""One forward pass: a batch to the device, the model's own loss, and what that loss is a mean over."""

from collections.abc import Mapping
from typing import Any

import torch

from fedtune.data.base import Batch
from fedtune.training.resident import Resident

IGNORED = -100
"""The label of what is not predicted: prompts and padding."""


def forward(resident: Resident, batch: Batch) -> Any:
    """The model's output on a batch of CPU tensors, with `loss` (the mean over `targets_of(batch)`) and `logits`."""
    on_device = {name: tensor.to(resident.device) for name, tensor in batch.items()}
    with resident.autocast():
        return resident.call(**on_device, **resident.extra)


def targets_of(batch: Mapping[str, torch.Tensor]) -> torch.Tensor:
    """What is predicted: labels (B,) of a classification; (B, T-1) of a causal LM: nothing predicts its first token."""
    labels = batch["labels"]
    return labels if labels.ndim == 1 else labels[:, 1:]


def count_targets(batch: Batch) -> int:
    """How many labels the batch's loss is a mean over: rows, or answer tokens."""
    return int((targets_of(batch) != IGNORED).sum())
