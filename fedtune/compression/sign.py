"""The signs of an update, one bit a number, with one magnitude a tensor (signSGD with a scale, arXiv 1901.09847)."""

from typing import ClassVar

import numpy as np
import torch

from fedtune.compression.base import Form, Tensors
from fedtune.compression.hostile import check_scales
from fedtune.compression.vector import Layout, VectorStage
from fedtune.errors import MalformedMessage


class Sign(VectorStage):
    """x ↦ s·sign(x), with s the tensor's mean |x|: the s of least squared error. Zero counts as positive.

    Eight signs to a byte, so no coder needs to follow: ⌈d/8⌉ bytes and four for each tensor, 32 times less than fp32.
    After `rotate` the update is one tensor, with one scale.
    """

    name: ClassVar[str] = "sign"
    linear: ClassVar[bool] = False
    lossless: ClassVar[bool] = False
    unbiased: ClassVar[bool] = False

    def _forms(self, layout: Layout) -> dict[str, Form]:
        size, scales = -(-layout.size // 8), len(layout.shapes)
        return {"bits": Form((size,), torch.uint8), "scale": Form((scales,), torch.float32)}

    def _encode(self, vector: torch.Tensor, layout: Layout, draw: torch.Generator) -> dict[str, torch.Tensor]:
        pieces = layout.unflatten(vector).values()
        scale = [float(x.abs().sum(dtype=torch.float64)) / max(x.numel(), 1) for x in pieces]
        bits = np.packbits((vector >= 0).numpy())
        return {"bits": torch.from_numpy(bits), "scale": torch.tensor(scale, dtype=torch.float32)}

    def _decode(self, parts: Tensors, layout: Layout, draw: torch.Generator) -> torch.Tensor:
        check_scales(parts["scale"], stage=self.name)
        bits = np.unpackbits(parts["bits"].numpy())
        if bits[layout.size :].any():
            raise MalformedMessage("the update has signs beyond its last number")
        magnitude = parts["scale"].repeat_interleave(torch.tensor(layout.sizes, dtype=torch.int64))
        return torch.where(torch.from_numpy(bits[: layout.size]).bool(), magnitude, -magnitude)
