"""The loss of each example by itself, for gradients that are clipped by example."""

import torch
from torch.nn.functional import cross_entropy

from fedtune.data.base import Batch
from fedtune.training.forward import IGNORED, forward, targets_of
from fedtune.training.resident import Resident


def example_losses(resident: Resident, batch: Batch) -> torch.Tensor:
    """Cross entropy by example, (N,) fp32, on the device: of its class, or the mean over its own answer tokens.

    From the logits and not from the model's own loss, which is a mean over the batch's tokens: there an example's
    weight would depend on how long the others' answers are. An example without anything to predict has the loss zero.
    """
    output = forward(resident, {name: tensor for name, tensor in batch.items() if name != "labels"})
    targets = targets_of(batch).to(output.logits.device)
    logits = output.logits.float()
    if targets.ndim == 1:
        return cross_entropy(logits, targets, reduction="none", ignore_index=IGNORED)
    losses_NT = cross_entropy(logits[:, :-1].transpose(1, 2), targets, reduction="none", ignore_index=IGNORED)
    return losses_NT.sum(dim=1) / (targets != IGNORED).sum(dim=1).clamp(min=1)
