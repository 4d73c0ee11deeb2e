"""The stages of an upload as one: applied in order on the client, undone in reverse on the server."""

from collections.abc import Mapping
from dataclasses import dataclass

import torch

from fedtune.compression.base import Form, Forms, Stage, Tensors, forms_of
from fedtune.errors import MalformedMessage
from fedtune.seeds import derive_seed
from fedtune.state import Shapes


@dataclass(frozen=True, slots=True)
class Pipeline:
    """A list of stages; an empty one sends what it is given."""

    stages: tuple[Stage, ...]

    @property
    def names(self) -> tuple[str, ...]:
        """The stages' names, first to last."""
        return tuple(stage.name for stage in self.stages)

    @property
    def linear(self) -> bool:
        """Do encoded updates add up as the updates do?"""
        return all(stage.linear for stage in self.stages)

    @property
    def lossless(self) -> bool:
        """Does every bit come back?"""
        return all(stage.lossless for stage in self.stages)

    def encode(self, tensors: Tensors, *, seed: int) -> dict[str, torch.Tensor]:
        """The client's half; each stage draws from a seed of its own."""
        current = dict(tensors)
        for position, stage in enumerate(self.stages):
            current = stage.encode(current, seed=_seed(seed, position, stage))
        return {name: tensor.contiguous() for name, tensor in current.items()}

    def decode(self, tensors: Tensors, shapes: Shapes, *, seed: int) -> dict[str, torch.Tensor]:
        """The server's half, for an fp32 update of `shapes`; raises MalformedMessage for anything that is no such one.

        Without stages whatever came is given back: it is validated before it is summed.
        """
        current = dict(tensors)
        given = [forms_of(shapes)]
        for stage in self.stages:
            given.append(stage.forms(given[-1]))
        for position, stage in reversed(list(enumerate(self.stages))):
            _check(current, given[position + 1], stage.name)
            current = stage.decode(current, given[position], seed=_seed(seed, position, stage))
        return current


def _seed(seed: int, position: int, stage: Stage) -> int:
    return derive_seed(seed, f"stage-{position}-{stage.name}")


def _check(tensors: Mapping[str, torch.Tensor], forms: Forms, stage: str) -> None:
    if tensors.keys() != forms.keys():
        raise MalformedMessage(f"the update has not the tensors that stage {stage!r} makes")
    for name, form in forms.items():
        if not _fits(tensors[name], form):
            raise MalformedMessage(f"{name!r} is not what stage {stage!r} makes")


def _fits(tensor: torch.Tensor, form: Form) -> bool:
    if tensor.dtype != form.dtype or tensor.ndim != len(form.shape):
        return False
    if not form.open:
        return tuple(tensor.shape) == form.shape
    return tensor.shape[0] <= form.shape[0] and tuple(tensor.shape[1:]) == form.shape[1:]
