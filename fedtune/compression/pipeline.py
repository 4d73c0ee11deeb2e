"""The stages of an upload as one: applied in order on the client, undone in reverse on the server."""

from dataclasses import dataclass

import torch

from fedtune.compression.base import Stage, Tensors
from fedtune.seeds import derive_seed


@dataclass(frozen=True, slots=True)
class Pipeline:
    """A list of stages; an empty one sends what it is given."""

    stages: tuple[Stage, ...]

    @property
    def names(self) -> tuple[str, ...]:
        """The stages' names, first to last."""
        return tuple(stage.name for stage in self.stages)

    def encode(self, tensors: Tensors, *, seed: int) -> dict[str, torch.Tensor]:
        """The client's half; each stage draws from a seed of its own."""
        current = dict(tensors)
        for position, stage in enumerate(self.stages):
            current = stage.encode(current, seed=derive_seed(seed, f"stage-{position}-{stage.name}"))
        return {name: tensor.contiguous() for name, tensor in current.items()}

    def decode(self, tensors: Tensors) -> dict[str, torch.Tensor]:
        """The server's half; raises MalformedMessage where a stage cannot have made its input."""
        current = dict(tensors)
        for stage in reversed(self.stages):
            current = stage.decode(current)
        return current
