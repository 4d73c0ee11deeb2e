"""What autograd keeps of a forward pass, counted on tensors that have shapes and no numbers."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from fedtune.recipe import ModelSection
from fedtune.split.body import bare
from fedtune.split.outline import Outline, empty_model


@dataclass(frozen=True, slots=True)
class Kept:
    """Bytes of activations for one row, between its forward pass and its way back."""

    trained: int
    """A layer whose weights are trained."""
    passed: int
    """A frozen layer that a gradient passes."""
    ends: int
    """Norm and task head behind the layers, trained; logits and loss among them."""


def kept_by(model: ModelSection, outline: Outline, tokens: int) -> Kept:
    """Count for a row of `tokens` tokens, on the CPU's kernels in fp32, dropout as the config has it.

    Models of one and of two layers are run without numbers; what the second layer adds is what a layer keeps.
    """
    one, two = (_run(model, outline, tokens, layers, frozen=False) for layers in (1, 2))
    passed = [_run(model, outline, tokens, layers, frozen=True) for layers in (1, 2)]
    trained = two - one
    return Kept(trained=trained, passed=passed[1] - passed[0], ends=max(0, one - trained))


def _run(model: ModelSection, outline: Outline, tokens: int, layers: int, *, frozen: bool) -> int:
    whole = empty_model(model, outline.config, layers=layers)
    prefix = whole.base_model_prefix
    with FakeTensorMode(allow_non_fake_inputs=True):
        whole = whole.to_empty(device="cpu").train()
        whole.tie_weights()
        whole.requires_grad_(not frozen)
        _cut_embeddings(whole.get_submodule(prefix), outline)
        hidden = torch.zeros(1, tokens, outline.width, requires_grad=True)
        target = torch.zeros((1, tokens) if outline.family.task == "causal-lm" else (1,), dtype=torch.long)
        return _kept(whole, lambda: whole(**{outline.family.hidden: hidden}, labels=target))


def _cut_embeddings(base: Any, outline: Outline) -> None:
    family = outline.family
    for name, other in bare(family).items():
        if name in (family.embeddings, family.positions):
            parent, _, last = name.rpartition(".")
            setattr(base.get_submodule(parent), last, other)


def _kept(model: Any, forward: Callable[[], Any]) -> int:
    """Bytes of all storages that a forward pass keeps for the way back, parameters left out."""
    weights = {parameter.untyped_storage()._cdata for parameter in model.parameters()}
    sizes: dict[int, int] = {}
    held: list[torch.Tensor] = []  # alive until the end, so that no address is used twice

    def note(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage._cdata not in weights:
            sizes[storage._cdata] = storage.nbytes()
            held.append(tensor)
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        held.append(forward().loss)
    return sum(sizes.values())
