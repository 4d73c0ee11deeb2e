"""The contract of an adapter: small trainable tensors in a frozen model, read, loaded and exported by name.

The state is what travels; the parameters are what an optimiser steps. They have the same names for most kinds.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from pathlib import Path
from typing import Literal

import torch
from torch import nn

from fedtune.adapters.shift import Shift
from fedtune.adapters.slots import Axes
from fedtune.state import Shapes, State, copy_state, shapes_of

Products = dict[str, tuple[torch.Tensor, torch.Tensor]]
"""(A, B) by adapted module: ΔW = B·A."""

SharedOrigin = Literal["none", "recomputed", "broadcast"]
"""How a client comes by the frozen factors: there are none, it computes them (free), or is sent them (counted)."""


class Attached(ABC):
    """An adapter in place on a model.

    Guarantees: the model's base weights change by `shift_to` alone, which takes it back; `load(read())` changes
    nothing; only the tensors of `parameters()` require gradients. A parameter that is not in the state starts anew
    with each `load`, and what was trained of it is in what `read` gives.
    """

    model: nn.Module
    """The model with the adapter inside; call it as the base model is called."""
    shared_origin: SharedOrigin
    """How a client obtains the factors of `shared()`."""
    slots: int
    """How many slots the adapter has (`fedtune.adapters.slots`): its rank, or its heads; 0 where it has none."""
    scale: float
    """What the adapter's product is multiplied by: LoRA's α/r; 1 for the others."""

    @abstractmethod
    def parameters(self) -> dict[str, nn.Parameter]:
        """The tensors that are trained, by canonical name, sorted; the task head's names start with `head.`."""

    @abstractmethod
    def shared(self) -> State:
        """The frozen factors that every client must hold alike, by name; empty where `shared_origin` is `none`."""

    @abstractmethod
    def load_shared(self, factors: Mapping[str, torch.Tensor]) -> None:
        """Put broadcast factors in place; raises AdapterError where names or shapes differ."""

    @abstractmethod
    def initialise(self, gradients: Mapping[str, torch.Tensor]) -> None:
        """Start from weight gradients, (out, in) by target module name, as LoRA-SB does (arXiv 2411.19557).

        Raises AdapterError where the recipe's initialisation does not read gradients.
        """

    @abstractmethod
    def axes(self) -> Axes:
        """For each tensor of the state the axes that run over the slots."""

    @abstractmethod
    def products(self, state: State) -> Products:
        """What a whole state adds to the weight of each target, ΔW = B·A: (A, B) of shapes (q, in) and (out, q).

        In double precision, on the CPU, the scale in B. Raises AdapterError for a method that adds no such product.
        """

    @abstractmethod
    def shift_to(self, shift: Shift) -> None:
        """Put W0 + shift in the place of the base weights of the targets; `NO_SHIFT` puts W0 back, bit for bit.

        Does nothing where this very shift is in place. Raises AdapterError where a module or shape is unknown, or
        the base is quantised.
        """

    @abstractmethod
    def targets(self) -> tuple[str, ...]:
        """Dotted names of the adapted modules in the base model, sorted."""

    @abstractmethod
    def target_shapes(self) -> Shapes:
        """The (out, in) shape of each weight that takes up a product, by the names of `targets()`."""

    @abstractmethod
    def save(self, folder: Path, base: str) -> None:
        """Write a PEFT folder (`adapter_config.json`, safetensors) for the plain base model, which is called `base`.

        What the base weights are shifted by is part of it, for all kinds whose base weights can be shifted.
        """

    @abstractmethod
    def merged(self) -> nn.Module:
        """A plain copy of the base model with the adapter folded into its weights."""

    def shapes(self) -> Shapes:
        """The shapes of the state."""
        return shapes_of(self.parameters())

    def read(self) -> State:
        """The state, a copy of its own: fp32, CPU."""
        return copy_state(self.parameters())

    def load(self, state: Mapping[str, torch.Tensor]) -> None:
        """Copy a state into place; raises AdapterError where names or shapes differ."""
        from fedtune.adapters.check import check_same_tensors

        parameters = self.parameters()
        check_same_tensors(shapes_of(state), self.shapes(), what="the adapter state")
        with torch.no_grad():
            for name, parameter in parameters.items():
                parameter.copy_(state[name])

    def sketch(self) -> dict[str, float]:
        """A few numbers a factor by which two machines see that they recomputed the same ones.

        Each factor is projected on fixed cosine probes, one weight per column or row, so that a flipped sign, a
        swapped pair or another base model shows, and the last digits of another machine's arithmetic do not.
        """
        return {name: _probe(tensor) for name, tensor in self.shared().items()}


def _probe(factor: torch.Tensor) -> float:
    matrix = factor.double().reshape(factor.shape[0] if factor.ndim > 1 else 1, -1)
    rows = torch.cos(torch.arange(matrix.shape[0], dtype=torch.float64))
    columns = torch.cos(torch.arange(matrix.shape[1], dtype=torch.float64) * 0.7)
    return float(rows @ matrix @ columns)
