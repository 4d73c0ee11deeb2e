"""How a layer's gradient is taken by example: Opacus' own functions for common layers, ours for ours.

Shape suffixes: N = examples, H = heads, R = rank of a head, … = positions of an example.
"""

from collections.abc import Callable, Mapping
from functools import cache

import torch
from torch import nn

from fedtune.adapters.prompt_layer import PromptLayer
from fedtune.adapters.ravan_layer import ScaledSquares

Sampler = Callable[[nn.Module, list[torch.Tensor], torch.Tensor], dict[nn.Parameter, torch.Tensor]]
"""From a layer, its inputs (N, …) and the gradient of its output (N, …): each parameter's gradients (N, *shape)."""


@cache
def samplers() -> Mapping[type[nn.Module], Sampler]:
    """The layers that can be trained privately. A closed list: Opacus falls back on `vmap` for others, which is exact
    only where a layer keeps its examples apart."""
    from opacus.grad_sample import GradSampleHooks

    kinds: tuple[type[nn.Module], ...] = (nn.Linear, nn.LayerNorm, nn.Conv2d)
    return {kind: GradSampleHooks.GRAD_SAMPLERS[kind] for kind in kinds} | {
        ScaledSquares: _scaled_squares,
        PromptLayer: _prompt,
    }


def _scaled_squares(
    layer: nn.Module, inputs: list[torch.Tensor], gradient: torch.Tensor
) -> dict[nn.Parameter, torch.Tensor]:
    """RAVAN's squares: the gradient of sᵢ·Hᵢ is that of a linear layer, and both factors share it."""
    squares, scales = layer.get_parameter("H"), layer.get_parameter("s")
    heads, rank = squares.shape[:2]
    z_NHR, g_NHR = (tensor.reshape(len(tensor), -1, heads, rank) for tensor in (inputs[0], gradient))
    product_NHRR = torch.einsum("nthr,nthq->nhrq", g_NHR, z_NHR)
    found = {squares: scales.detach()[:, None, None] * product_NHRR, scales: (squares * product_NHRR).sum((2, 3))}
    return {parameter: tensor.detach() for parameter, tensor in found.items() if parameter.requires_grad}


def _prompt(layer: nn.Module, _: list[torch.Tensor], gradient: torch.Tensor) -> dict[nn.Parameter, torch.Tensor]:
    """A prompt: every row has a copy of its own in the output, whose gradient is the row's."""
    at, vectors = int(layer.at), layer.get_parameter("input")  # type: ignore[arg-type]
    return {vectors: gradient[:, at : at + len(vectors)].detach()} if vectors.requires_grad else {}
