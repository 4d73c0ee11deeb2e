"""Canary clients: updates in random directions, as long as the clip lets them be (arXiv 2302.03098)."""

import math
from collections.abc import Mapping

import torch

from fedtune.seeds import generator
from fedtune.state import Shapes, State


def direction(name: str, shapes: Shapes, *, seed: int) -> State:
    """A direction of norm one over all tensors together, uniformly distributed, its canary's own.

    Directions are no secret: whether their canary is in is.
    """
    drawn = {}
    for tensor, shape in sorted(shapes.items()):
        source = generator(seed, f"audit-direction/{tensor}", client=name)
        drawn[tensor] = torch.randn(shape, generator=source, dtype=torch.float64)
    norm = math.sqrt(sum(float(torch.sum(part**2)) for part in drawn.values()))
    return {tensor: (part / norm).float() for tensor, part in drawn.items()}


def inner(left: Mapping[str, torch.Tensor], right: Mapping[str, torch.Tensor]) -> float:
    """The inner product over the tensors that both have, in double precision."""
    common = sorted(left.keys() & right.keys())
    return math.fsum(float(torch.sum(left[name].double() * right[name].double())) for name in common)


def norm(state: Mapping[str, torch.Tensor]) -> float:
    """The Euclidean norm over all tensors."""
    return math.sqrt(inner(state, state))
