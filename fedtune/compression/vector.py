"""Stages that see an update as one vector: its fp32 tensors, flattened in the order of their sorted names."""

from abc import abstractmethod
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TypeVar

import torch

from fedtune.compression.base import Form, Forms, Stage, Tensors
from fedtune.seeds import generator

Thing = TypeVar("Thing", Form, torch.Tensor)


@dataclass(frozen=True, slots=True)
class Layout:
    """Where each fp32 tensor lies in the vector."""

    shapes: dict[str, tuple[int, ...]]
    """By sorted name."""

    @property
    def sizes(self) -> list[int]:
        """The numbers of each tensor, in order."""
        return [torch.Size(shape).numel() for shape in self.shapes.values()]

    @property
    def size(self) -> int:
        """The numbers of all tensors together, d."""
        return sum(self.sizes)

    def flatten(self, tensors: Tensors) -> torch.Tensor:
        """The vector (d,): a copy, which may be written to."""
        return torch.cat([torch.empty(0), *(tensors[name].reshape(-1) for name in self.shapes)])

    def unflatten(self, vector: torch.Tensor) -> dict[str, torch.Tensor]:
        """The tensors of a vector (d,), as views of it."""
        pieces = torch.split(vector, self.sizes) if self.shapes else ()
        return {name: piece.view(shape) for (name, shape), piece in zip(self.shapes.items(), pieces, strict=True)}


def layout_of(things: Mapping[str, Thing]) -> Layout:
    """The layout of what is fp32 among forms or tensors."""
    return Layout({name: tuple(things[name].shape) for name in sorted(things) if _is_number(things[name])})


def others(things: Mapping[str, Thing]) -> dict[str, Thing]:
    """What is not fp32: the symbols, bits and streams of the stages before."""
    return {name: thing for name, thing in things.items() if not _is_number(thing)}


class VectorStage(Stage):
    """A stage that turns the vector into a few parts, and these into the vector; what is not fp32 passes it by.

    The parts travel as `<stage>.<part>`, one entry of the message each, however many tensors the adapter has.
    """

    def forms(self, given: Forms) -> dict[str, Form]:
        """The forms of the parts, and of what passes by."""
        parts = self._forms(layout_of(given))
        return {**others(given), **{self._sent(part, others(given)): form for part, form in parts.items()}}

    def encode(self, tensors: Tensors, *, seed: int) -> dict[str, torch.Tensor]:
        """The client's half: flatten, encode, name the parts."""
        layout, rest = layout_of(tensors), others(tensors)
        parts = self._encode(layout.flatten(tensors), layout, generator(seed, self.name))
        return {**rest, **{self._sent(part, rest): tensor for part, tensor in parts.items()}}

    def decode(self, tensors: Tensors, given: Forms, *, seed: int) -> dict[str, torch.Tensor]:
        """The server's half; raises MalformedMessage for parts that `encode` does not make."""
        layout, rest = layout_of(given), others(given)
        parts = {part: tensors[self._sent(part, rest)] for part in self._forms(layout)}
        vector = self._decode(parts, layout, generator(seed, self.name))
        return {**{name: tensors[name] for name in rest}, **layout.unflatten(vector)}

    @abstractmethod
    def _forms(self, layout: Layout) -> dict[str, Form]:
        """The forms of the parts."""

    @abstractmethod
    def _encode(self, vector: torch.Tensor, layout: Layout, draw: torch.Generator) -> dict[str, torch.Tensor]:
        """The parts of a vector (d,), which is the stage's own; both halves are given the same `draw`."""

    @abstractmethod
    def _decode(self, parts: Tensors, layout: Layout, draw: torch.Generator) -> torch.Tensor:
        """The vector (d,) of parts that have the forms; raises MalformedMessage for values that cannot be."""

    def _sent(self, part: str, rest: Iterable[str]) -> str:
        prefix = f"{self.name}."
        while any(name.startswith(prefix) for name in rest):  # the same stage a second time
            prefix = f"again-{prefix}"
        return prefix + part


def _is_number(thing: Form | torch.Tensor) -> bool:
    return thing.dtype == torch.float32
