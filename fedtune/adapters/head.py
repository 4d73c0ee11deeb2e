"""The task head beside an adapter: small, new, and trained whole where the recipe says so."""

import torch
from torch import nn

from fedtune.models.base import LoadedModel
from fedtune.models.head import is_inside
from fedtune.state import State

PREFIX = "head."
"""In front of a head parameter's name in the base model: its canonical name."""


def head_parameters(loaded: LoadedModel) -> dict[str, nn.Parameter]:
    """The parameters of all modules of the task head, by canonical name; empty where the model has none."""
    return {f"{PREFIX}{name}": p for name, p in loaded.model.named_parameters() if is_inside(name, loaded.head)}


def head_state(loaded: LoadedModel) -> State:
    """A copy of every tensor of the task head, trained or not, by its name in the base model: fp32, CPU."""
    head = {name.removeprefix(PREFIX): parameter for name, parameter in head_parameters(loaded).items()}
    return {name: head[name].detach().to("cpu", torch.float32, copy=True).contiguous() for name in sorted(head)}
