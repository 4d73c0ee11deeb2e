"""A random rotation of an update: it spreads large numbers over their neighbours, so that a coarse grid fits all."""

from typing import ClassVar

import torch

from fedtune.compression.base import Form, Tensors
from fedtune.compression.vector import Layout, VectorStage

LARGEST_BLOCK = 1 << 16
"""Numbers that are mixed with each other: enough to look normally distributed, few enough to stay in a cache."""


class Rotate(VectorStage):
    """x ↦ H·D·x: D random signs from the seed, H block-diagonal of Hadamard matrices over √n (arXiv 1611.00429).

    The blocks are as many as fit of 65,536, then the powers of two that make up the rest, down to 1: nothing is padded,
    the d numbers become d numbers. Orthogonal, so ‖x‖ is kept and the inverse is exact to rounding, about 2e-7·‖x‖.
    Additions alone, so every machine computes the same bits; O(d·log n).

    `linear` holds among clients that were given one seed. What follows sees one tensor, the whole update.
    """

    name: ClassVar[str] = "rotate"
    linear: ClassVar[bool] = True
    lossless: ClassVar[bool] = False
    unbiased: ClassVar[bool] = True

    def _forms(self, layout: Layout) -> dict[str, Form]:
        return {"values": Form((layout.size,), torch.float32)}

    def _encode(self, vector: torch.Tensor, layout: Layout, draw: torch.Generator) -> dict[str, torch.Tensor]:
        return {"values": hadamard(vector.mul_(_signs(layout, draw)))}

    def _decode(self, parts: Tensors, layout: Layout, draw: torch.Generator) -> torch.Tensor:
        return hadamard(parts["values"]).mul_(_signs(layout, draw))


def hadamard(vector: torch.Tensor) -> torch.Tensor:
    """The orthonormal block-diagonal Walsh-Hadamard transform of a vector (d,): symmetric, and its own inverse."""
    made = torch.empty_like(vector)
    start = 0
    while start < len(vector):
        length = min(LARGEST_BLOCK, 1 << ((len(vector) - start).bit_length() - 1))
        made[start : start + length] = _block(vector[start : start + length])
        start += length
    return made


def _block(numbers: torch.Tensor) -> torch.Tensor:
    """One block of length 2ᵏ: k times the sums of neighbours, then their differences, which is the natural order."""
    half = len(numbers) // 2
    now, after = numbers.mul(len(numbers) ** -0.5), torch.empty_like(numbers)
    for _ in range(half.bit_length()):
        torch.add(now[0::2], now[1::2], out=after[:half])
        torch.sub(now[0::2], now[1::2], out=after[half:])
        now, after = after, now
    return now


def _signs(layout: Layout, draw: torch.Generator) -> torch.Tensor:
    return torch.randint(2, (layout.size,), generator=draw, dtype=torch.float32).mul_(2).sub_(1)
