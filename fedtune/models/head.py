"""The task head: which modules it is made of, and how a new one starts."""

import torch
from torch import nn

from fedtune.seeds import generator

DEFAULT_STD = 0.02
"""Spread of a new head where the config gives no `initializer_range`."""


def head_modules(model: nn.Module, task: str) -> tuple[str, ...]:
    """Dotted names of the modules that make up the task head, sorted; none for `causal-lm`.

    The head is what sits beside the encoder: `classifier` (BERT, ViT, DINOv2), `score` (Llama), `pre_classifier` and
    `classifier` (DistilBERT).
    """
    if task == "causal-lm":
        return ()
    encoder = getattr(model, "base_model_prefix", "")
    return tuple(
        sorted(
            name for name, child in model.named_children() if name != encoder and any(True for _ in child.parameters())
        )
    )


def is_inside(name: str, modules: tuple[str, ...]) -> bool:
    """Is the parameter called `name` part of one of the modules?"""
    return any(name == module or name.startswith(f"{module}.") for module in modules)


@torch.no_grad()
def initialise_head(model: nn.Module, modules: tuple[str, ...], seed: int) -> None:
    """Start the named modules anew: matrices N(0, initializer_range²), biases zero, norm weights one.

    Each tensor has a generator of its own, from `seed` and its name: the global random state is neither read nor moved,
    and the result does not depend on the device or on the version of transformers.
    """
    std = float(getattr(getattr(model, "config", None), "initializer_range", None) or DEFAULT_STD)
    for name, parameter in sorted(model.named_parameters()):
        if is_inside(name, modules):
            parameter.copy_(_start(name, parameter, std, seed))


def _start(name: str, parameter: torch.Tensor, std: float, seed: int) -> torch.Tensor:
    if parameter.ndim < 2:
        return torch.ones(parameter.shape) if name.endswith("weight") else torch.zeros(parameter.shape)
    return torch.randn(parameter.shape, generator=generator(seed, f"head {name}")) * std
