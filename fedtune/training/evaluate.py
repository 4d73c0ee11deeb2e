"""Scoring a state on rows: sums of loss and right predictions, so that scores of several clients add up."""

from collections.abc import Callable, Iterable, Iterator
from typing import Any

import torch

from fedtune.adapters.shift import NO_SHIFT, Shift
from fedtune.data.base import Batch, Rows
from fedtune.state import State
from fedtune.training.base import Score
from fedtune.training.forward import IGNORED, count_targets, forward, targets_of
from fedtune.training.memory import within_memory
from fedtune.training.mode import in_mode
from fedtune.training.order import slices
from fedtune.training.resident import Resident

Outputs = Callable[[Resident, Iterable[Batch]], Iterator[tuple[Batch, Any]]]
"""Each batch with the model's output for it, in order."""


def plain_outputs(resident: Resident, batches: Iterable[Batch]) -> Iterator[tuple[Batch, Any]]:
    """One forward pass after the other."""
    return ((batch, forward(resident, batch)) for batch in batches)


def score_rows(
    resident: Resident, state: State, rows: Rows, shift: Shift = NO_SHIFT, outputs: Outputs = plain_outputs
) -> Score:
    """Score `state` on `rows`: every row of a classification, every answer token of a causal LM.

    Guarantees: no random number is drawn, the model's mode is what it was, and the base weights are W0 + `shift`.
    Raises AdapterError where the state or the shift does not fit, TrainingError where the memory does not suffice.
    """
    training = resident.recipe.training
    counts: list[int] = []
    sums: list[torch.Tensor] = []
    with resident.lock:
        resident.attached.shift_to(shift)
        resident.attached.load(state)
        with (
            in_mode(resident.attached.model, training=False),
            within_memory(resident.device, advice="lower training.eval_batch_size"),
            torch.inference_mode(),
        ):
            batches = (rows.batch(indices) for indices in slices(list(range(len(rows))), training.eval_batch_size))
            for batch, output in outputs(resident, filter(count_targets, batches)):
                counts.append(count_targets(batch))
                sums.append(_sums(output, batch, counts[-1]))
    # One transfer at the end: the device is not waited for after each batch.
    loss_sum, correct = torch.stack(sums).cpu().double().sum(dim=0).tolist() if sums else (0.0, 0.0)
    return Score(sum(counts), loss_sum, correct)


def _sums(output: Any, batch: Batch, count: int) -> torch.Tensor:
    """The sum of the loss and the number of right predictions of one batch, (2,), on the device."""
    targets = targets_of(batch).to(output.logits.device)
    logits = output.logits if targets.ndim == 1 else output.logits[:, :-1]
    right = ((logits.argmax(dim=-1) == targets) & (targets != IGNORED)).sum()
    return torch.stack((output.loss.float() * count, right.float()))
