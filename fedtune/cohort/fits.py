"""Can clients share passes through this model? If not, why not, in words."""

from collections.abc import Iterator
from typing import Any

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.dropout import _DropoutNd

from fedtune.adapters.layers import is_adaptable, is_quantised
from fedtune.cohort.lane import Lane
from fedtune.cohort.place import cohort_layers
from fedtune.errors import AdapterError
from fedtune.models.dropout import chances
from fedtune.training.resident import Resident


def fits(resident: Resident, *, drops: bool = True) -> str | None:
    """Why the clients of this resident have to take turns, to stand behind "because"; None where they need not.

    With `drops` false no step drops numbers, whatever the model was made for: it is trained in evaluation mode.
    """
    return next(_reasons(resident, drops), None)


def _reasons(resident: Resident, drops: bool) -> Iterator[str]:
    training, model = resident.recipe.training, resident.attached.model
    if resident.parts is not None:
        yield "the model is split"
    if training.gradient_checkpointing:
        yield "training.gradient_checkpointing is set"
    if training.compile:
        yield "training.compile is set"
    if drops:
        yield from _of_dropout(model)
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


def _of_dropout(model: nn.Module) -> Iterator[str]:
    for name, module in model.named_modules():
        if isinstance(module, _DropoutNd) and module.p > 0:
            yield f"{name} drops numbers at random; set model.dropout = 0"
    config = getattr(model, "config", None)
    for name, chance in sorted(chances(config).items()):
        if chance > 0:
            yield f"the model's {name} is {chance}; set model.dropout = 0"


def _of_loss(model: nn.Module) -> Iterator[str]:
    """Losses other than the cross entropy of one class among several."""
    config: Any = model.config
    if config.problem_type not in {None, "single_label_classification"}:
        yield f'the model\'s problem_type is "{config.problem_type}"'
    if config.num_labels <= 1:
        yield "the model has one label alone"
