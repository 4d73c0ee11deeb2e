"""int8 and int4: blocks of numbers on an even grid, rounded up or down at random so that the mean is right (QSGD).

arXiv 1610.02132, with the largest magnitude of a block in place of its norm.
"""

from typing import ClassVar

import torch

from fedtune.compression import nibbles
from fedtune.compression.base import Form, Tensors
from fedtune.compression.blocks import Blocks
from fedtune.compression.hostile import check_scales, check_symbols
from fedtune.compression.vector import Layout, VectorStage


class _Grid(VectorStage):
    """x ↦ s·⌊x/s + u⌋ with u uniform in [0, 1) and s the block's largest |x| over the number of steps.

    Guarantees: |x̂ − x| < s, E[x̂] = x over seeds to the rounding of fp32, and zero stays zero. A block's scale is fp32:
    32/block bits a number.
    """

    linear: ClassVar[bool] = False
    lossless: ClassVar[bool] = False
    unbiased: ClassVar[bool] = True
    steps: ClassVar[int]
    """Symbols are -steps to steps."""

    def _forms(self, layout: Layout) -> dict[str, Form]:
        scales = Form((self._blocks(layout).count,), torch.float32)
        return {"symbols": Form((layout.size,), torch.int8), "scales": scales}

    def _encode(self, vector: torch.Tensor, layout: Layout, draw: torch.Generator) -> dict[str, torch.Tensor]:
        blocks = self._blocks(layout)
        scales = blocks.largest(vector) / self.steps
        exact = (vector / blocks.spread(scales)).nan_to_num_(0.0).clamp_(-self.steps, self.steps)
        low = exact.floor()
        up = torch.rand(len(vector), generator=draw) < exact.sub_(low)
        return {"symbols": low.add_(up).to(torch.int8), "scales": scales}

    def _decode(self, parts: Tensors, layout: Layout, draw: torch.Generator) -> torch.Tensor:
        check_scales(parts["scales"], stage=self.name)
        check_symbols(parts["symbols"], -self.steps, self.steps, stage=self.name)
        return parts["symbols"] * self._blocks(layout).spread(parts["scales"])

    def _blocks(self, layout: Layout) -> Blocks:
        return Blocks(layout, self.section.block)


class Int8(_Grid):
    """Symbols -127 to 127, a byte each; a coder may follow where many are small, as after `top-k`."""

    name: ClassVar[str] = "int8"
    steps: ClassVar[int] = 127


class Int4(_Grid):
    """Symbols -7 to 7: as int8 where a coder follows, else two to a byte, as 1 to 15.

    Of normally distributed numbers in blocks of 64 the symbols have an entropy of 3.5 bits: `entropy` saves an eighth.
    """

    name: ClassVar[str] = "int4"
    steps: ClassVar[int] = 7

    def _forms(self, layout: Layout) -> dict[str, Form]:
        forms = super()._forms(layout)
        return forms if self.coded else {**forms, "symbols": Form((nibbles.bytes_for(layout.size),), torch.uint8)}

    def _encode(self, vector: torch.Tensor, layout: Layout, draw: torch.Generator) -> dict[str, torch.Tensor]:
        parts = super()._encode(vector, layout, draw)
        return parts if self.coded else {**parts, "symbols": nibbles.pack((parts["symbols"] + 8).to(torch.uint8))}

    def _decode(self, parts: Tensors, layout: Layout, draw: torch.Generator) -> torch.Tensor:
        if not self.coded:
            symbols = nibbles.unpack(parts["symbols"], layout.size).to(torch.int8) - 8
            parts = {**parts, "symbols": symbols}
        return super()._decode(parts, layout, draw)
