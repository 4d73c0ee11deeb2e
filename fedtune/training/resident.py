"""The resident: one base model with its adapter on one device, shared by all who train and evaluate in a process."""

import threading
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import nn

from fedtune.adapters.attach import attach
from fedtune.adapters.base import Attached
from fedtune.adapters.prompt_place import check_room
from fedtune.errors import ModelError
from fedtune.models.base import LoadedModel
from fedtune.models.load import load_config, load_model
from fedtune.models.source import find_model
from fedtune.recipe import Recipe
from fedtune.seeds import derive_seed
from fedtune.split.attach import PLACES, attach_split
from fedtune.split.cut import Cut, cut_of
from fedtune.split.load import load_client_part
from fedtune.split.parts import ClientParts
from fedtune.state import Shapes, State, shapes_of
from fedtune.training.device import choose_device, has_bf16


@dataclass(frozen=True, slots=True)
class Resident:
    """A frozen base model, its adapter and the device that they are on.

    Guarantees: the base weights change by `attached.shift_to` alone. Whoever loads a state, trains or evaluates holds
    `lock` while at it, and says first what the base weights are to be shifted by.
    """

    loaded: LoadedModel
    attached: Attached
    device: torch.device
    recipe: Recipe
    initial: State
    """The adapter as it was attached: what a run starts from, whatever was trained here since."""
    call: Callable[..., Any]
    """The forward pass: the model with its adapter, compiled where the recipe asks (dropout then draws otherwise); of a
    split model the short circuit from head to tail."""
    extra: Mapping[str, Any]
    """Keyword arguments of every forward pass."""
    bf16: bool
    """Does the forward pass autocast to bfloat16?"""
    parts: ClientParts | None = None
    """Head and tail of a split model, whose body is elsewhere; None where the model is whole."""
    lock: threading.RLock = field(default_factory=threading.RLock, repr=False, compare=False)

    @classmethod
    def build(cls, recipe: Recipe) -> "Resident":
        """Load the base model, or of a split one the client's part, and attach the adapter that `recipe` names.

        Raises RunError where the device is not there, ModelError or AdapterError where those do not fit.
        """
        device, seed = choose_device(recipe.training.device), derive_seed(recipe.run.seed, "head")
        if recipe.split.active:
            part = load_client_part(recipe.model, recipe.split, device=device, seed=seed)
            return cls.of_part(part, _cut_in(recipe), device, recipe)
        loaded = load_model(recipe.model, device=device, seed=seed)
        check_room(recipe, loaded.model.config)
        attached = attach(loaded, recipe.adapter, task=recipe.model.task)
        return cls.of(loaded, attached, device, recipe)

    @classmethod
    def of(cls, loaded: LoadedModel, attached: Attached, device: torch.device, recipe: Recipe) -> "Resident":
        """A resident from parts that are at hand; raises ModelError where the model cannot checkpoint gradients."""
        if recipe.training.gradient_checkpointing:
            _checkpoint_gradients(loaded.model)
        return cls(
            loaded=loaded,
            attached=attached,
            device=device,
            recipe=recipe,
            initial=attached.read(),
            call=torch.compile(attached.model) if recipe.training.compile else attached.model,
            # Training and scoring read every token at once: a key-value cache would only cost memory.
            extra={"use_cache": False} if recipe.model.task == "causal-lm" else {},
            bf16=recipe.training.precision == "bf16" and has_bf16(device),
        )

    @classmethod
    def of_part(cls, loaded: LoadedModel, cut: Cut, device: torch.device, recipe: Recipe) -> "Resident":
        """A resident of the part of a split model that a client holds; raises ModelError, AdapterError."""
        attached = attach_split(loaded, recipe, cut)
        parts = ClientParts.of(loaded.model, cut, recipe.model.task, attached.prompts)
        return replace(cls.of(loaded, attached, device, recipe), parts=parts, call=parts.short)

    def autocast(self) -> AbstractContextManager[Any]:
        """The precision of a forward pass, as a context."""
        return torch.autocast(self.device.type, dtype=torch.bfloat16) if self.bf16 else nullcontext()

    def shapes(self) -> Shapes:
        """The shapes of the trainable tensors."""
        return shapes_of(self.initial)


def resident(recipe: Recipe) -> Resident:
    """The process's resident for `recipe`: built once, and kept until a recipe comes that needs another.

    Recipes that differ only in what does not touch the model (rounds, rates, rows) share one base model in memory.
    """
    global _kept  # noqa: PLW0603 - one base model a process is the point
    key = _key(recipe)
    with _keeping:
        if _kept is None or _kept[0] != key:
            _kept = None  # the old model makes room before the new one is loaded
            _kept = (key, Resident.build(recipe))
        return replace(_kept[1], recipe=recipe)


def forget_resident() -> None:
    """Let go of the process's resident, so that its memory can be used."""
    global _kept  # noqa: PLW0603
    with _keeping:
        _kept = None


_kept: tuple[str, Resident] | None = None
_keeping = threading.Lock()


def _key(recipe: Recipe) -> str:
    """Everything of a recipe that the resident is made from; `init_source` is only known to the coordinator."""
    device = choose_device(recipe.training.device)
    adapter = recipe.adapter.model_dump_json(exclude={"init_source"})
    training = recipe.training.model_dump_json(include={"precision", "gradient_checkpointing", "compile"})
    split = recipe.split.model_dump_json(include={"train_head", *PLACES})
    return "\n".join((recipe.model.model_dump_json(), adapter, training, split, str(recipe.run.seed), str(device)))


def _cut_in(recipe: Recipe) -> Cut:
    return cut_of(recipe.split, load_config(recipe.model, find_model(recipe.model.name, recipe.model.revision)))


def _checkpoint_gradients(model: nn.Module) -> None:
    enable = getattr(model, "gradient_checkpointing_enable", None)
    if enable is None or not getattr(model, "supports_gradient_checkpointing", False):
        raise ModelError(
            f"{type(model).__name__} cannot recompute activations; set training.gradient_checkpointing = false."
        )
    # Not the re-entrant kind: it drops the adapter's gradients where a layer's input needs none, as behind frozen
    # embeddings, unless every embedding is made to require them.
    enable(gradient_checkpointing_kwargs={"use_reentrant": False})
