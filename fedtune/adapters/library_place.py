"""Puts a method of the `peft` library into a model, and tells its tensors from the base model's."""

import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from fedtune.adapters.library_config import refused
from fedtune.errors import AdapterError
from fedtune.recipe import AdapterSection
from fedtune.seeds import derive_seed
from fedtune.state import State

ADAPTER = "default"
"""PEFT's name for the one adapter that a model holds, and part of its tensors' names."""


@dataclass(frozen=True, slots=True)
class Placed:
    """A method in place."""

    model: nn.Module
    """PEFT's model around the base model."""
    trained: dict[str, nn.Parameter]
    """What the method trains, by canonical name; the task head is left out."""
    frozen: State
    """What the method has made and never trains, sorted by name."""


def place(base: nn.Module, config: Any, section: AdapterSection) -> Placed:
    """Let PEFT change `base` in place; its own head stays where it is, and everything it had is frozen.

    Raises AdapterError, and leaves the model as it was, where the method does not fit it, trains nothing, or changes
    the base weights.
    """
    base.requires_grad_(False)
    modules, before = list(base.named_modules()), _Before(base)
    try:
        model = _inject(base, config, section)
        _unwrap_head(base)
        before.check(section)
        added = {_canonical(name): t for name, t in _named_tensors(model) if id(t) not in before.ids}
        trained = {name: t for name, t in added.items() if isinstance(t, nn.Parameter) and t.requires_grad}
        if not trained:
            raise AdapterError(
                f'adapter.peft_type = "{section.peft_type}" trains nothing on this model; choose another'
            )
    except AdapterError:
        _restore(base, modules)
        raise
    return Placed(model, trained, {name: added[name] for name in sorted(added.keys() - trained.keys())})


class _Before:
    """The tensors that the base model was made of before PEFT came, held so that a change of them shows."""

    def __init__(self, model: nn.Module) -> None:
        self._tensors = dict(_named_tensors(model))
        self._marks = {name: (t.data_ptr(), t._version) for name, t in self._tensors.items()}
        self.ids = frozenset(id(tensor) for tensor in self._tensors.values())

    def check(self, section: AdapterSection) -> None:
        """Raise AdapterError where a method trains base weights or has written to them."""
        for name, tensor in self._tensors.items():
            if tensor.requires_grad or (tensor.data_ptr(), tensor._version) != self._marks[name]:
                raise AdapterError(
                    f'adapter.peft_type = "{section.peft_type}" changes the base weights themselves ({name}), which '
                    f"clients do not send; choose other adapter.peft_options or another method."
                )


def _inject(base: nn.Module, config: Any, section: AdapterSection) -> nn.Module:
    """PEFT draws from torch's global generators: they are seeded for as long as it takes, and put back."""
    from peft import get_peft_model

    device = next(base.parameters()).device
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.manual_seed(derive_seed(section.seed, "adapter"))
        try:
            model: nn.Module = get_peft_model(base, config)
        except (ValueError, TypeError, KeyError, AttributeError, NotImplementedError, RuntimeError, ImportError) as e:
            raise refused(section, e) from e
    return model


def _unwrap_head(model: nn.Module) -> None:
    """PEFT trains a copy of the head that it keeps beside the first one; ours is trained in its own place."""
    from peft.utils import ModulesToSaveWrapper

    for name, module in list(model.named_modules()):
        if isinstance(module, ModulesToSaveWrapper):
            model.set_submodule(name, module.original_module)


def _restore(model: nn.Module, modules: list[tuple[str, nn.Module]]) -> None:
    """Put every module back where it was, and take PEFT's mark off."""
    for name, module in modules:
        if name and model.get_submodule(name) is not module:
            model.set_submodule(name, module)
    if hasattr(model, "peft_config"):
        del model.peft_config
    model.requires_grad_(False)


def _named_tensors(model: nn.Module) -> Iterator[tuple[str, torch.Tensor]]:
    yield from model.named_parameters()
    yield from model.named_buffers()


def _canonical(name: str) -> str:
    name = name.removeprefix("base_model.").removeprefix("model.")
    return ".".join(part for part in name.split(".") if part != ADAPTER)
