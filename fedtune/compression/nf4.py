"""NormalFloat-4 (QLoRA, arXiv 2305.14314): sixteen levels that suit normally distributed numbers."""

from typing import ClassVar

import torch

from fedtune.compression import nibbles
from fedtune.compression.base import Form, Tensors
from fedtune.compression.blocks import Blocks
from fedtune.compression.hostile import check_scales
from fedtune.compression.vector import Layout, VectorStage

LEVELS = (
    -1.0,
    -0.6961928009986877,
    -0.5250730514526367,
    -0.39491748809814453,
    -0.28444138169288635,
    -0.18477343022823334,
    -0.09105003625154495,
    0.0,
    0.07958029955625534,
    0.16093020141124725,
    0.24611230194568634,
    0.33791524171829224,
    0.44070982933044434,
    0.5626170039176941,
    0.7229568362236023,
    1.0,
)
"""The published table: quantiles of the standard normal distribution over the largest of them, with an exact zero."""


class Nf4(VectorStage):
    """x ↦ the nearest level times the block's largest |x|, two to a byte: 4 + 32/block bits a number.

    |x̂ − x| is at most 0.152 of the block's largest |x|, half the widest gap. Of normally distributed numbers in blocks
    of 64 the codes have an entropy of 3.9 bits, so a coder has next to nothing to gain.
    """

    name: ClassVar[str] = "nf4"
    linear: ClassVar[bool] = False
    lossless: ClassVar[bool] = False
    unbiased: ClassVar[bool] = False

    def _forms(self, layout: Layout) -> dict[str, Form]:
        scales = Form((self._blocks(layout).count,), torch.float32)
        return {"codes": Form((nibbles.bytes_for(layout.size),), torch.uint8), "scales": scales}

    def _encode(self, vector: torch.Tensor, layout: Layout, draw: torch.Generator) -> dict[str, torch.Tensor]:
        blocks = self._blocks(layout)
        scales = blocks.largest(vector)
        levels = torch.tensor(LEVELS)
        middles = (levels[1:] + levels[:-1]) / 2
        codes = torch.bucketize((vector / blocks.spread(scales)).nan_to_num_(0.0), middles, out_int32=True)
        return {"codes": nibbles.pack(codes.to(torch.uint8)), "scales": scales}

    def _decode(self, parts: Tensors, layout: Layout, draw: torch.Generator) -> torch.Tensor:
        check_scales(parts["scales"], stage=self.name)
        codes = nibbles.unpack(parts["codes"], layout.size)
        return torch.tensor(LEVELS)[codes.int()] * self._blocks(layout).spread(parts["scales"])

    def _blocks(self, layout: Layout) -> Blocks:
        return Blocks(layout, self.section.block)
