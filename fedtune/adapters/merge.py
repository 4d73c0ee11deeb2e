"""A plain model out of one with an adapter: the products folded into copies of the base weights."""

import copy
from typing import Any

import torch
from torch import nn

from fedtune.adapters.base import Products
from fedtune.adapters.layers import base_of, is_quantised, is_transposed, parameter_of
from fedtune.errors import AdapterError


def merged_copy(model: nn.Module, products: Products) -> nn.Module:
    """A copy of `model` without adapter layers, W + B·A for each target's weight W; `model` stays as it is.

    `products`: (A, B) of shapes (q, in) and (out, q) by target. The copy is frozen, in eval mode, and saves and loads
    as the base model does. Raises AdapterError for quantised weights.
    """
    if quantised := [name for name in products if is_quantised(base_of(model.get_submodule(name)))]:
        raise AdapterError(
            f'"{quantised[0]}" is quantised and cannot take up an adapter: load the base with '
            f'model.quantization = "none" to merge, or export the adapter alone.'
        )
    # Where the copy meets an adapter layer it finds the folded base layer made here.
    copies: dict[int, Any] = {}
    for name, (a, b) in products.items():
        layer = model.get_submodule(name)
        copies[id(layer)] = fold(copy.deepcopy(base_of(layer), copies), b.double() @ a.double())
    plain = copy.deepcopy(model, copies)
    if hasattr(plain, "peft_config"):
        del plain.peft_config  # PEFT's mark on models that it changed
    for parameter in plain.parameters():
        parameter.grad = None
    return plain.requires_grad_(False).eval()


@torch.no_grad()
def fold(layer: nn.Module, product_MN: torch.Tensor) -> nn.Module:
    """Add ΔW (out, in) to a plain layer's weight, in place; returns the layer."""
    weight = parameter_of(layer, "weight")
    product = product_MN.T if is_transposed(layer) else product_MN
    # Summed in double on the CPU, which has it on every machine, and rounded once.
    weight.copy_(weight.cpu().double() + product.cpu())
    return layer
