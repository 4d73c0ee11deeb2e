"""Scoring by packed passes: what `fedtune.training.evaluate` adds up, of real tokens alone."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

from torch.nn.functional import cross_entropy

from fedtune.adapters.shift import Shift
from fedtune.cohort.base import Pass
from fedtune.data.base import Batch
from fedtune.training.evaluate import Outputs
from fedtune.training.resident import Resident


def outputs_by(a_pass: Pass, shift: Shift) -> Outputs:
    """What `score_rows` reads its sums from, by this pass, with the resident's own adapter layers in the model.

    Counts are those of plain passes, losses those up to rounding. What a batch is said to hold is its targets alone,
    (M,), with logits (M, V).
    """

    def outputs(_: Resident, batches: Iterable[Batch]) -> Iterator[tuple[Batch, Any]]:
        a_pass.begin(shift)
        for batch in batches:
            predicted = a_pass.logits([(_Rows(batch), range(len(batch["labels"])))])
            loss = cross_entropy(predicted.logits.float(), predicted.targets)
            yield {"labels": predicted.targets.cpu()}, SimpleNamespace(loss=loss, logits=predicted.logits)

    return outputs


@dataclass(frozen=True, slots=True)
class _Rows:
    """A batch as the rows that it was made of."""

    whole: Batch

    def __len__(self) -> int:
        return len(self.whole["labels"])

    def batch(self, indices: Sequence[int]) -> Batch:
        """Some of the rows, as wide as they are."""
        chosen = list(indices)
        return {name: tensor[chosen] for name, tensor in self.whole.items()}
