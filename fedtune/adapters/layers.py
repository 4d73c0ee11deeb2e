"""The layers that an adapter can sit on, and their weights as (out, in) matrices."""

import torch
from torch import nn
from torch.nn.modules.linear import NonDynamicallyQuantizableLinear
from transformers.pytorch_utils import Conv1D

from fedtune.adapters.prompt_layer import PromptLayer
from fedtune.errors import AdapterError


def is_adaptable(module: nn.Module) -> bool:
    """Is this a layer x ↦ W·x that the model calls: `nn.Linear` (4-bit ones too) or transformers' `Conv1D`?

    The output projection of `nn.MultiheadAttention` is none: torch reads its weight and never calls it.
    """
    return isinstance(module, nn.Linear | Conv1D) and not isinstance(module, NonDynamicallyQuantizableLinear)


def base_of(module: nn.Module) -> nn.Module:
    """The base model's own layer, inside its adapter if there is one."""
    base = getattr(module, "base_layer", module)
    return base if isinstance(base, nn.Module) else module


def dimensions(module: nn.Module) -> tuple[int, int]:
    """(out, in) of an adaptable layer or of one that carries an adapter; a 4-bit weight's own shape is another."""
    base = base_of(module)
    return (int(base.nf), int(base.nx)) if is_transposed(base) else (int(base.out_features), int(base.in_features))  # type: ignore[arg-type]


def is_transposed(layer: nn.Module) -> bool:
    """Does the layer hold its weight as (in, out)?"""
    return isinstance(layer, Conv1D)


def is_quantised(layer: nn.Module) -> bool:
    """Is the layer's weight held as packed integers?"""
    return not parameter_of(layer, "weight").is_floating_point()


def weight_of(layer: nn.Module) -> torch.Tensor:
    """The weight of an adaptable layer as an (out, in) matrix; a quantised one as the numbers that it stands for."""
    weight = parameter_of(layer, "weight").detach()
    if is_quantised(layer):
        from peft.utils.integrations import dequantize_module_weight

        weight = dequantize_module_weight(layer).detach()
    return weight.T if is_transposed(layer) else weight


def refuse_second(model: nn.Module) -> None:
    """Raise AdapterError where the model carries an adapter: a second one would take the first for its base."""
    for name, module in model.named_modules():
        if is_adaptable(base_of(module)) and base_of(module) is not module:
            raise AdapterError(f"the model carries an adapter already (on {name!r}); load the base model anew")
        if isinstance(module, PromptLayer):
            raise AdapterError("the model carries a soft prompt already; load the base model anew")
    if hasattr(model, "peft_config"):
        raise AdapterError("the model carries an adapter of the peft library already; load the base model anew")


def parameter_of(layer: nn.Module, name: str) -> nn.Parameter:
    """A parameter of a layer by its name there."""
    return layer.get_parameter(name)
