"""Views on a model: the same layers and parameters in shallow copies of the modules around them, some left out."""

import copy
from collections.abc import Mapping
from types import SimpleNamespace
from typing import Any

import torch
from torch import nn

from fedtune.split.prompt import insert, overwrite, remove


class PassOn(nn.Module):
    """In the place of embeddings: hands on the hidden states (B, T, D) that were given as the model's input."""

    def __init__(self) -> None:
        super().__init__()
        # ViT casts its input to the dtype of this weight.
        self.patch_embeddings = SimpleNamespace(projection=SimpleNamespace(weight=torch.empty(0)))

    def forward(self, *args: Any, **kwargs: Any) -> torch.Tensor:
        """The one argument that is a tensor of three axes."""
        return next(value for value in (*args, *kwargs.values()) if isinstance(value, torch.Tensor) and value.ndim == 3)


class NoPositions(nn.Module):
    """In the place of a position embedding: adds zero."""

    def forward(self, positions: torch.Tensor) -> torch.Tensor:
        """A zero that broadcasts, on the device of `positions`."""
        return torch.zeros((), device=positions.device)


class Prompted(nn.Module):
    """Embeddings with a soft prompt put in."""

    def __init__(self, embeddings: nn.Module, vectors: nn.Parameter, at: int) -> None:
        super().__init__()
        self.embeddings, self.vectors, self.at = embeddings, vectors, at
        self.patch_embeddings = getattr(embeddings, "patch_embeddings", None)

    def forward(self, *args: Any, **kwargs: Any) -> torch.Tensor:
        """(B, T + P, D), from whatever the embeddings read."""
        return insert(self.embeddings(*args, **kwargs), self.vectors, self.at)


class Fresh(nn.Module):
    """A layer that a prompt of its own is written over the old one for."""

    def __init__(self, layer: nn.Module, vectors: nn.Parameter, at: int) -> None:
        super().__init__()
        self.layer, self.vectors, self.at = layer, vectors, at

    def forward(self, hidden: torch.Tensor, *args: Any, **kwargs: Any) -> Any:
        """What the layer makes of (B, T, D) with its own prompt."""
        return self.layer(overwrite(hidden, self.vectors, self.at), *args, **kwargs)


class Unprompted(nn.Module):
    """A norm behind which the prompt is gone."""

    def __init__(self, norm: nn.Module, tokens: int, at: int) -> None:
        super().__init__()
        self.norm, self.tokens, self.at = norm, tokens, at

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        """(B, T + P, D) becomes (B, T, D)."""
        return remove(self.norm(hidden), self.tokens, self.at)


def view(module: nn.Module, others: Mapping[str, nn.Module | None]) -> Any:
    """A shallow copy of `module` with other submodules at the given dotted names.

    Modules on the way to those are copied too; all else, parameters included, is shared. `module` stays as it is.
    """
    copied = copy.copy(module)
    copied._modules = dict(module._modules)
    deeper: dict[str, dict[str, nn.Module | None]] = {}
    for name, other in others.items():
        first, _, rest = name.partition(".")
        if rest:
            deeper.setdefault(first, {})[rest] = other
        else:
            copied._modules[first] = other
    for first, inner in deeper.items():
        copied._modules[first] = view(module.get_submodule(first), inner)
    return copied
