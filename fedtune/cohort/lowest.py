"""From which layer on a model is trained: what lies below it computes the same of a row in every pass."""

from collections.abc import Iterable

from torch import nn

from fedtune.models.head import is_inside
from fedtune.split.cut import layer_number
from fedtune.split.family import Family
from fedtune.training.resident import Resident


def lowest_layer(resident: Resident, family: Family) -> int | str:
    """The number of the first layer that holds something trained, or the number of layers where none does.

    A phrase, to stand behind "because", where something is trained that stands before the layers or is nobody knows
    where.
    """
    model = resident.attached.model
    trained = _trained(resident)
    if isinstance(trained, str):
        return trained
    prefix = str(model.base_model_prefix)
    behind = tuple(f"{prefix}.{part}" for part in (family.norm, family.pooler) if part) + resident.loaded.head
    numbers = [len(family.layers_of(model.get_submodule(prefix))[1])]
    for name in trained:
        number = layer_number(name)
        if number is not None:
            numbers.append(number)
        elif not is_inside(name, behind):
            return f"{name} is trained, which stands before the layers"
    return min(numbers)


def _trained(resident: Resident) -> list[str] | str:
    """The names in the model of all that is trained; a tied weight has several."""
    model = resident.attached.model
    named: dict[int, list[str]] = {}
    for name, parameter in model.named_parameters(remove_duplicate=False):
        named.setdefault(id(parameter), []).append(name)
    trained: list[str] = []
    for name, parameter in resident.attached.parameters().items():
        if id(parameter) not in named:
            return f"{name} stands outside of the model"
        trained += named[id(parameter)]
    return trained


def touches(modules: Iterable[str], layer: int) -> bool:
    """Is one of these modules in a layer before this one?"""
    return any((number := layer_number(f"{name}.")) is not None and number < layer for name in modules)


def holds_trained(module: nn.Module, trained: Iterable[nn.Parameter]) -> bool:
    """Is one of the trained tensors a parameter of this module?"""
    ids = {id(parameter) for parameter in trained}
    return any(id(parameter) in ids for parameter in module.parameters())
