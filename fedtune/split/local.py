"""The body in this process: what a simulation and the coordinator's own evaluation send micro-batches through."""

import threading
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch

from fedtune.errors import TrainingError
from fedtune.recipe import Recipe
from fedtune.recipe.split import SplitSection
from fedtune.split.activations import roundtrip
from fedtune.split.attach_body import attach_body
from fedtune.split.base import OpenBody, Share, Smashed, Wants
from fedtune.split.body import BodyModel
from fedtune.split.copies import BodyCopies, BodyCopy
from fedtune.split.load import load_body
from fedtune.training.device import choose_device, has_bf16

Autocast = Callable[[], AbstractContextManager[Any]]


@dataclass(frozen=True, slots=True)
class Ready:
    """An answer that is there."""

    tensor: torch.Tensor

    def result(self) -> torch.Tensor:
        """The tensor."""
        return self.tensor


@dataclass(frozen=True, slots=True)
class _Kept:
    leaf: torch.Tensor
    output: torch.Tensor
    gradient: slice


class LocalBody:
    """A `Body` on a model of this process; every answer is there at once.

    Whatever crosses a cut is rounded as the recipe's codec does it, so that a simulation computes what a deployment
    would. The model is in eval mode: its dropout is off, as at the coordinator. Without a `copy` nothing of it is
    trained.
    """

    def __init__(
        self, model: BodyModel, split: SplitSection, *, autocast: Autocast = nullcontext, copy: BodyCopy | None = None
    ) -> None:
        self.in_flight, self.trains = split.in_flight, copy is not None
        self._model, self._split, self._autocast, self._copy = model, split, autocast, copy
        self._kept: dict[int, _Kept] = {}

    def forward(self, number: int, smashed: Smashed, wants: Wants, *, train: bool) -> Ready:
        """The body's output for the tokens of `wants.output`, (B, T', D), fp32."""
        leaf = self._crossed(smashed.hidden)
        keep = train and wants.gradient is not None
        with torch.enable_grad() if keep else torch.no_grad(), self._autocast():
            leaf.requires_grad_(keep)
            made = self._copy.run(leaf, smashed.mask, train=keep) if self._copy else self._model(leaf, smashed.mask)
            output = made[:, wants.output].float()
        if train and wants.gradient is not None:
            self._kept[number] = _Kept(leaf, output, wants.gradient)
        return Ready(self._crossed(output))

    def backward(self, number: int, gradient: torch.Tensor) -> Ready:
        """The gradient by the tokens of `wants.gradient` at the first cut; raises TrainingError where none is kept."""
        kept = self._kept.pop(number, None)
        if kept is None:
            raise TrainingError(f"micro-batch {number} has no backward pass; send it forward with train first")
        trained = self._copy.parameters if self._copy else ()
        found, *of_body = torch.autograd.grad(
            kept.output, (kept.leaf, *trained), self._crossed(gradient), allow_unused=bool(trained)
        )
        if self._copy:
            self._copy.add(of_body)
        wanted = found[:, kept.gradient]
        return Ready(self._crossed(wanted) if wanted.shape[1] else wanted)

    def step(self, factor: float, *, last: bool) -> None:
        """The copy takes its step; nothing where there is none."""
        if self._copy:
            self._copy.step(factor, last=last)

    def close(self) -> None:
        """Let go of whatever was kept for a backward pass."""
        self._kept.clear()

    def _crossed(self, tensor: torch.Tensor) -> torch.Tensor:
        return roundtrip(tensor, self._split.activations, self._split.topk)


def local_bodies(recipe: Recipe, copies: BodyCopies | None = None) -> OpenBody:
    """Bodies on the one body model of this process, which is loaded now and kept until a recipe needs another.

    With `copies` each share has its own of what is trained of the body; without, all read what is loaded in it. Raises
    ModelError where it cannot be loaded, RunError where the device is not there.
    """
    device = choose_device(recipe.training.device)
    model = body_model(recipe)
    bf16 = recipe.training.precision == "bf16" and has_bf16(device)

    def autocast() -> AbstractContextManager[Any]:
        return torch.autocast(device.type, dtype=torch.bfloat16) if bf16 else nullcontext()

    def open_body(share: Share) -> LocalBody:
        return LocalBody(model, recipe.split, autocast=autocast, copy=copies.open(share) if copies else None)

    return open_body


def body_copies(recipe: Recipe) -> BodyCopies | None:
    """The clients' copies of what `recipe` trains of the process's body; None where it trains nothing. Raises as
    `local_bodies`."""
    return BodyCopies(body_model(recipe), recipe.training) if recipe.split.trains_body else None


def body_model(recipe: Recipe) -> BodyModel:
    """The process's body for `recipe`, on the recipe's device; loaded once."""
    global _loaded  # noqa: PLW0603 - one body a process is the point
    device = choose_device(recipe.training.device)
    split = recipe.split
    key = f"{recipe.model.model_dump_json()} {split.head_layers} {split.tail_layers} {device} {split.body}"
    if split.trains_body:
        key += recipe.adapter.model_dump_json(exclude={"init_source"})
    with _loading:
        if _loaded is None or _loaded[0] != key:
            _loaded = None  # the old body makes room before the new one is loaded
            body = load_body(recipe.model, split, device=device)
            attach_body(body, recipe)
            _loaded = (key, body)
        return _loaded[1]


_loaded: tuple[str, BodyModel] | None = None
_loading = threading.Lock()
