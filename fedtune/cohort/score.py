"""Scoring by packed passes: what `fedtune.training.evaluate` adds up, of real tokens alone."""

from collections.abc import Iterable, Iterator
from types import SimpleNamespace
from typing import Any

from torch.nn.functional import cross_entropy

from fedtune.adapters.shift import Shift
from fedtune.cohort.base import Pass
from fedtune.cohort.blocks import WholeBatch
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
            predicted = a_pass.logits([(WholeBatch(batch), range(len(batch["labels"])))])
            loss = cross_entropy(predicted.logits.float(), predicted.targets)
            yield {"labels": predicted.targets.cpu()}, SimpleNamespace(loss=loss, logits=predicted.logits)

    return outputs
