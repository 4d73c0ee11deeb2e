"""Can clients share passes through this model? If not, why not, in words."""

from collections.abc import Iterator
from typing import Any

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from fedtune.adapters.layers import is_adaptable, is_quantised
from fedtune.cohort.dropping import drops, why_not_dropped
from fedtune.cohort.lane import Lane
from fedtune.cohort.packed import why_not_packed
from fedtune.cohort.place import cohort_layers
from fedtune.errors import AdapterError
from fedtune.training.resident import Resident


def fits(resident: Resident) -> str | None:
    """Why the clients of this resident have to take turns, to stand behind "because"; None where they need not."""
    return next(_reasons(resident), None)


def _reasons(resident: Resident) -> Iterator[str]:
    training, model = resident.recipe.training, resident.attached.model
    if resident.parts is not None:
        yield "the model is split"
    if training.gradient_checkpointing:
        yield "training.gradient_checkpointing is set"
    if training.compile:
        yield "training.compile is set"
    yield from _of_dropout(resident)
    for name, module in model.named_modules():
        if isinstance(module, _BatchNorm):
            yield f"{name} is a batch norm"
    if resident.recipe.model.task != "causal-lm":
        yield from _of_loss(model)
    if any(is_adaptable(module) and is_quantised(module) for module in model.modules()):
        yield "the base model is quantised"
    try:
        cohort_layers(resident.attached, Lane())
    except AdapterError as error:
        yield str(error)


def _of_dropout(resident: Resident) -> Iterator[str]:
    """Each row's own can be drawn for texts in packed passes alone."""
    if not drops(resident):
        return
    yield from why_not_dropped(resident.attached.model)
    images = resident.recipe.model.task == "image-classification"
    if reason := "the rows are images" if images else why_not_packed(resident):
        yield f"numbers are dropped at random, and {reason}; set model.dropout = 0 and adapter.dropout = 0"


def _of_loss(model: nn.Module) -> Iterator[str]:
    """Losses other than the cross entropy of one class among several."""
    config: Any = model.config
    if config.problem_type not in {None, "single_label_classification"}:
        yield f'the model\'s problem_type is "{config.problem_type}"'
    if config.num_labels <= 1:
        yield "the model has one label alone"
