"""Half precision on the wire: fp16 or bf16, decoded to fp32 before anything is summed."""

from dataclasses import replace
from typing import ClassVar

import torch

from fedtune.compression.base import Form, Forms, Stage, Tensors


class _Half(Stage):
    dtype: ClassVar[torch.dtype]
    linear: ClassVar[bool] = False
    lossless: ClassVar[bool] = False
    unbiased: ClassVar[bool] = False

    def forms(self, given: Forms) -> dict[str, Form]:
        """The fp32 tensors in half precision; what is no fp32 (symbols, streams) is left alone."""
        return {name: replace(form, dtype=self._sent(form.dtype)) for name, form in given.items()}

    def encode(self, tensors: Tensors, *, seed: int) -> dict[str, torch.Tensor]:
        """Cast to half precision, two bytes a number; values beyond its range are cut to the largest one."""
        largest = torch.finfo(self.dtype).max
        return {
            name: tensor.clamp(-largest, largest).to(self.dtype) if tensor.dtype == torch.float32 else tensor
            for name, tensor in tensors.items()
        }

    def decode(self, tensors: Tensors, given: Forms, *, seed: int) -> dict[str, torch.Tensor]:
        """Cast back to fp32."""
        return {name: tensor.to(given[name].dtype) for name, tensor in tensors.items()}

    def _sent(self, dtype: torch.dtype) -> torch.dtype:
        return self.dtype if dtype == torch.float32 else dtype


class Fp16(_Half):
    """IEEE half: 11 bits of precision, largest magnitude 65,504, steps of 6e-8 near zero."""

    name: ClassVar[str] = "fp16"
    dtype: ClassVar[torch.dtype] = torch.float16


class Bf16(_Half):
    """bfloat16: fp32's range with 8 bits of precision."""

    name: ClassVar[str] = "bf16"
    dtype: ClassVar[torch.dtype] = torch.bfloat16
