"""How wrong the short circuit is about each row (EL2N, arXiv 2107.07075), and the rows that are worth sending."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from fedtune.data.base import Batch, Rows
from fedtune.recipe.split import kept_rows
from fedtune.state import State
from fedtune.training.forward import IGNORED, forward, targets_of
from fedtune.training.memory import within_memory
from fedtune.training.mode import in_mode
from fedtune.training.order import slices
from fedtune.training.resident import Resident


@dataclass(frozen=True, slots=True)
class KeptRows:
    """Some of a client's rows, in their order."""

    rows: Rows
    indices: Sequence[int]

    def __len__(self) -> int:
        return len(self.indices)

    def batch(self, indices: Sequence[int]) -> Batch:
        """The rows at these positions among the kept ones."""
        return self.rows.batch([self.indices[index] for index in indices])


def score_each(resident: Resident, state: State, rows: Rows) -> torch.Tensor:
    """(rows,): ‖softmax(f(x)) − onehot(y)‖₂ of each row under the short circuit, without dropout; in [0, √2].

    Of a causal LM the mean over its answer tokens; 0 for a row that has none. Raises AdapterError where the state does
    not fit, TrainingError where the memory does not suffice.
    """
    size = resident.recipe.training.eval_batch_size
    with resident.lock:
        resident.attached.load(state)
        with (
            in_mode(resident.attached.model, training=False),
            within_memory(resident.device, advice="lower training.eval_batch_size"),
            torch.inference_mode(),
        ):
            batches = (rows.batch(indices) for indices in slices(list(range(len(rows))), size))
            scores = [_errors(forward(resident, batch), batch) for batch in batches]
    return torch.cat(scores).cpu() if scores else torch.zeros(0)


def hardest(scores: torch.Tensor, keep: float) -> list[int]:
    """The positions of the ⌈keep · n⌉ largest scores, ascending; of equal scores the first ones."""
    count = kept_rows(len(scores), keep)
    order = torch.sort(scores, descending=True, stable=True).indices
    return sorted(order[:count].tolist())


def _errors(output: Any, batch: Batch) -> torch.Tensor:
    targets = targets_of(batch).to(output.logits.device)
    logits = output.logits if targets.ndim == 1 else output.logits[:, :-1]
    if targets.ndim == 1:
        return _distance(logits, targets)
    answers = targets != IGNORED
    each = _distance(logits, targets.clamp(min=0)) * answers
    return each.sum(dim=1) / answers.sum(dim=1).clamp(min=1)


def _distance(logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """‖p − onehot(y)‖₂ = √(Σp² − 2·p_y + 1), over the last axis."""
    p = logits.float().softmax(dim=-1)
    own = p.gather(-1, targets.unsqueeze(-1)).squeeze(-1)
    return (p.square().sum(dim=-1) - 2 * own + 1).clamp(min=0).sqrt()
