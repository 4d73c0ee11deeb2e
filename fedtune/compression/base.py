"""The contract of a stage: what the client does to an update, the server undoes, in reverse order."""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch

from fedtune.recipe.compression import CompressionSection
from fedtune.state import Shapes

Tensors = Mapping[str, torch.Tensor]


@dataclass(frozen=True, slots=True)
class Form:
    """What a tensor is before it is there: both sides know it from the adapter alone."""

    shape: tuple[int, ...]
    dtype: torch.dtype
    open: bool = False
    """Is the length of the first axis up to the data, as of an entropy-coded stream? `shape` is its upper bound."""


Forms = Mapping[str, Form]
"""By tensor name."""


def forms_of(shapes: Shapes) -> dict[str, Form]:
    """The forms of an fp32 state."""
    return {name: Form(shape, torch.float32) for name, shape in sorted(shapes.items())}


class Stage(ABC):
    """One step of the upload, both halves.

    `encode` may change names, dtypes and shapes; `decode` gives back what `encode` was given, lossily or not. What
    `encode` makes has the forms that `forms` says, so that `decode` can refuse anything else before it takes memory.
    """

    name: ClassVar[str]
    linear: ClassVar[bool]
    """Does decode(encode(x) + encode(y)) equal decode(encode(x)) + decode(encode(y)), to rounding, under one seed for
    both? Only then may secure aggregation follow, and it must give all clients of a round that one seed."""
    lossless: ClassVar[bool]
    """Does decode(encode(x)) equal x, bit for bit?"""
    unbiased: ClassVar[bool]
    """Is the mean of decode(encode(x)) over seeds x?"""

    def __init__(self, section: CompressionSection, *, coded: bool = False) -> None:
        self.section = section
        self.coded = coded
        """Does a lossless coder of symbols come later in the pipeline? A stage may pack its own where none does."""

    @abstractmethod
    def forms(self, given: Forms) -> dict[str, Form]:
        """The forms of what `encode` makes of tensors of the forms `given`."""

    @abstractmethod
    def encode(self, tensors: Tensors, *, seed: int) -> dict[str, torch.Tensor]:
        """The client's half; every random choice comes from `seed`."""

    @abstractmethod
    def decode(self, tensors: Tensors, given: Forms, *, seed: int) -> dict[str, torch.Tensor]:
        """The server's half: tensors of the forms that `encode` was given; `seed` is the one that `encode` had.

        `tensors` have been checked against `forms(given)`. Raises MalformedMessage where they cannot be what `encode`
        makes.
        """
