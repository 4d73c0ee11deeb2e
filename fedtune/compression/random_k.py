"""Random-k: a share of an update that both halves draw from the seed, so that the values alone travel."""

from typing import ClassVar

import torch

from fedtune.compression.base import Form, Tensors
from fedtune.compression.kept import budgets, cuts, kept
from fedtune.compression.vector import Layout, VectorStage


class RandomK(VectorStage):
    """k = ⌊density·d⌋ numbers at random (at least one), times d/k, 0 elsewhere: unbiased, and linear given the seed.

    Of the whole update, or of each tensor where `threshold = "tensor"`. No positions travel: 4·k bytes, fewer with
    `fp16` or `int8` after it. E‖x̂ − x‖² = (d/k − 1)·‖x‖².

    Two premises. `linear` holds among clients that were given one seed: secure aggregation must give all clients of a
    round the same. And it is no contraction: error feedback would multiply what it keeps by up to d/k − 1 each round
    and diverge, so `random-k` goes with `feedback = "none"`.
    """

    name: ClassVar[str] = "random-k"
    linear: ClassVar[bool] = True
    lossless: ClassVar[bool] = False
    unbiased: ClassVar[bool] = True

    def _forms(self, layout: Layout) -> dict[str, Form]:
        return {"values": Form((sum(budgets(layout, self.section)),), torch.float32)}

    def _encode(self, vector: torch.Tensor, layout: Layout, draw: torch.Generator) -> dict[str, torch.Tensor]:
        return {"values": vector[self._mask(layout, draw)]}

    def _decode(self, parts: Tensors, layout: Layout, draw: torch.Generator) -> torch.Tensor:
        vector = torch.zeros(layout.size)
        vector[self._mask(layout, draw)] = parts["values"]
        sizes, counts = cuts(layout, self.section), budgets(layout, self.section)
        for piece, size, count in zip(torch.split(vector, sizes), sizes, counts, strict=True):
            piece.mul_(size / max(count, 1))
        return vector

    def _mask(self, layout: Layout, draw: torch.Generator) -> torch.Tensor:
        keys = torch.randint(2**31 - 1, (layout.size,), generator=draw, dtype=torch.int32)
        return kept(keys, layout, self.section)
