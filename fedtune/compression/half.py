"""Half precision on the wire: fp16 or bf16, decoded to fp32 before anything is summed."""

from typing import ClassVar

import torch

from fedtune.compression.base import Stage, Tensors
from fedtune.errors import MalformedMessage


class _Half(Stage):
    dtype: ClassVar[torch.dtype]
    linear: ClassVar[bool] = False
    lossless: ClassVar[bool] = False

    def encode(self, tensors: Tensors, *, seed: int) -> dict[str, torch.Tensor]:
        """Cast to half precision, two bytes a number; values beyond its range are cut to the largest one."""
        largest = torch.finfo(self.dtype).max
        return {name: tensor.clamp(-largest, largest).to(self.dtype) for name, tensor in tensors.items()}

    def decode(self, tensors: Tensors) -> dict[str, torch.Tensor]:
        """Cast back to fp32; raises MalformedMessage for any other dtype than this stage's."""
        for name, tensor in tensors.items():
            if tensor.dtype != self.dtype:
                raise MalformedMessage(f"{name!r} came as {tensor.dtype}, not {self.dtype}")
        return {name: tensor.float() for name, tensor in tensors.items()}


class Fp16(_Half):
    """IEEE half: 11 bits of precision, largest magnitude 65,504, steps of 6e-8 near zero."""

    name: ClassVar[str] = "fp16"
    dtype: ClassVar[torch.dtype] = torch.float16


class Bf16(_Half):
    """bfloat16: fp32's range with 8 bits of precision."""

    name: ClassVar[str] = "bf16"
    dtype: ClassVar[torch.dtype] = torch.bfloat16
