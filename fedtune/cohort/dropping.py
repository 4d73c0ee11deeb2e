"""What of a model drops numbers at random, and what takes its place where rows share a pass."""

from collections.abc import Iterator

import torch
from torch import nn
from torch.nn.modules.dropout import _DropoutNd

from fedtune.cohort.lane import Lane
from fedtune.cohort.layers import CohortModule
from fedtune.models.dropout import chances
from fedtune.models.head import is_inside
from fedtune.training.resident import Resident

KNOWN = frozenset(
    {
        *("hidden_dropout_prob", "attention_probs_dropout_prob", "classifier_dropout"),
        *("dropout", "attention_dropout", "seq_classif_dropout", "qa_dropout"),
        *("resid_pdrop", "embd_pdrop", "attn_pdrop", "summary_first_dropout"),
    }
)
"""A config's chances whose dropouts are modules or those of attention, in the families that are packed."""


class CohortDropout(CohortModule):
    """A dropout whose masks are each row's own."""

    def __init__(self, alone: nn.Dropout, lane: Lane) -> None:
        super().__init__(alone, lane)
        self.p = alone.p
        """Models look at it, for attention that drops by the same chance."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """All or the read tokens of the stream, or one a row."""
        # The mode is that of the module whose place it takes: it may be set before this one stands there.
        if not self.alone.training or not self.p:
            return x
        if self._lane.drops is None:
            raise ValueError("rows have no seeds to draw their dropout by")
        return self._lane.drops.of(x, self.p)


def drops(resident: Resident) -> bool:
    """Does a local step of this resident drop anything at random in the base model or in its adapter?"""
    return resident.recipe.privacy.unit != "example" and next(_dropping(resident.attached.model), None) is not None


def base_drops(resident: Resident) -> bool:
    """Does it so outside of the adapter: is what frozen layers make of a row another each time?"""
    where = (name for name in _dropping(resident.attached.model) if ".lora_dropout." not in name)
    return resident.recipe.privacy.unit != "example" and next(where, None) is not None


def why_not_dropped(model: nn.Module) -> Iterator[str]:
    """Dropouts that cannot be drawn row by row, each a clause."""
    for name, module in model.named_modules():
        if isinstance(module, _DropoutNd) and type(module) is not nn.Dropout and module.p > 0:
            yield f"{name} drops numbers at random, several together; set model.dropout = 0"
    for name, chance in sorted(chances(getattr(model, "config", None)).items()):
        if chance > 0 and name not in KNOWN:
            yield f"the model's {name} is {chance}; set model.dropout = 0"


def dropouts(model: nn.Module, lane: Lane, inside: tuple[str, ...]) -> dict[str, CohortModule]:
    """What takes the place of each dropout of a model, by its name there, but for those inside of these modules."""
    found = {name: module for name, module in model.named_modules() if type(module) is nn.Dropout}
    return {name: CohortDropout(module, lane) for name, module in found.items() if not is_inside(name, inside)}


def _dropping(model: nn.Module) -> Iterator[str]:
    yield from (name for name, module in model.named_modules() if isinstance(module, _DropoutNd) and module.p > 0)
    yield from (name for name, chance in chances(getattr(model, "config", None)).items() if chance > 0)
