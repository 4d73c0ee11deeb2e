"""The frame of the lossless coders: every int8 tensor of an update becomes a stream of bytes of the same name."""

from abc import abstractmethod
from math import prod
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray

from fedtune.compression.base import Form, Forms, Stage, Tensors
from fedtune.compression.stream import Bytes
from fedtune.errors import MalformedMessage

Symbols = NDArray[np.int8]
"""One axis."""


class SymbolCoder(Stage):
    """A stage that codes symbols: int8 tensors of any shape; tensors of other dtypes pass as they are.

    Guarantees: `decode` gives the very tensors that `encode` was given, or raises MalformedMessage; it takes memory for
    no more symbols than `given` allows.
    """

    linear: ClassVar[bool] = False
    lossless: ClassVar[bool] = True
    unbiased: ClassVar[bool] = True
    fixed_length: ClassVar[bool] = False
    """Is a stream always as long as `most_bytes` says?"""

    def forms(self, given: Forms) -> dict[str, Form]:
        """The int8 tensors as streams of at most the length that the coder promises."""
        return {name: self._form(form) if form.dtype == torch.int8 else form for name, form in given.items()}

    def encode(self, tensors: Tensors, *, seed: int) -> dict[str, torch.Tensor]:
        """The streams; nothing is drawn from `seed`."""
        return {
            name: torch.from_numpy(self.pack(_flat(tensor))) if tensor.dtype == torch.int8 else tensor
            for name, tensor in tensors.items()
        }

    def decode(self, tensors: Tensors, given: Forms, *, seed: int) -> dict[str, torch.Tensor]:
        """The symbols again; raises MalformedMessage, naming the tensor, where a stream is none of this coder's."""
        return {
            name: self._decoded(name, tensor, given[name]) if given[name].dtype == torch.int8 else tensor
            for name, tensor in tensors.items()
        }

    @abstractmethod
    def pack(self, symbols: Symbols) -> Bytes:
        """The stream of these symbols."""

    @abstractmethod
    def unpack(self, stream: Bytes, form: Form) -> Symbols:
        """The symbols of a tensor of this form; raises MalformedMessage."""

    @abstractmethod
    def most_bytes(self, count: int) -> int:
        """What the stream of `count` symbols can take at the most."""

    def _form(self, form: Form) -> Form:
        return Form((self.most_bytes(prod(form.shape)),), torch.uint8, open=form.open or not self.fixed_length)

    def _decoded(self, name: str, stream: torch.Tensor, form: Form) -> torch.Tensor:
        try:
            symbols = self.unpack(_flat(stream), form)
        except MalformedMessage as error:
            raise MalformedMessage(f"{name!r}: {error}") from error
        row = prod(form.shape[1:])
        shape = (len(symbols) // row, *form.shape[1:]) if form.open and row else form.shape
        return torch.from_numpy(symbols).reshape(shape)


def _flat(tensor: torch.Tensor) -> NDArray[Any]:
    flat: NDArray[Any] = tensor.detach().cpu().reshape(-1).contiguous().numpy()
    return flat
