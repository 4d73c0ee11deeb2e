"""The contract of a stage: what the client does to an update, the server undoes, in reverse order."""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import ClassVar

import torch

Tensors = Mapping[str, torch.Tensor]


class Stage(ABC):
    """One step of the upload, both halves.

    `encode` may change names, dtypes and shapes; `decode` gives back the names and shapes that `encode` was given.
    """

    name: ClassVar[str]
    linear: ClassVar[bool]
    """Does decode(encode(x) + encode(y)) equal x + y, to rounding? Only then may secure aggregation follow."""
    lossless: ClassVar[bool]
    """Does decode(encode(x)) equal x, bit for bit?"""

    @abstractmethod
    def encode(self, tensors: Tensors, *, seed: int) -> dict[str, torch.Tensor]:
        """The client's half; every random choice comes from `seed`."""

    @abstractmethod
    def decode(self, tensors: Tensors) -> dict[str, torch.Tensor]:
        """The server's half: fp32 tensors; raises MalformedMessage where `tensors` cannot be what `encode` makes."""
