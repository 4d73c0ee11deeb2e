"""What adapters have in common that add a low-rank product to linear layers: naming, freezing, saving, merging."""

from abc import abstractmethod
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import nn

from fedtune.adapters.base import Attached, Products
from fedtune.adapters.base_weights import BaseWeights
from fedtune.adapters.check import check_same_tensors
from fedtune.adapters.export import write_adapter
from fedtune.adapters.head import PREFIX, head_parameters, head_state
from fedtune.adapters.layers import base_of, dimensions, is_transposed, refuse_second
from fedtune.adapters.merge import merged_copy
from fedtune.adapters.saved import TASK_TYPES, SavedAdapter
from fedtune.adapters.shift import Shift
from fedtune.adapters.slots import Axes
from fedtune.adapters.stack import stacked
from fedtune.adapters.targets import resolve_targets
from fedtune.errors import AdapterError
from fedtune.models.base import LoadedModel
from fedtune.recipe import AdapterSection
from fedtune.state import Shapes, State, copy_state, shapes_of

SLOT_AXES: dict[str, tuple[int, ...]] = {"lora_A": (0,), "lora_B": (1,), "R": (0, 1), "H": (0,)}
"""Which axes of an adapter's own tensors run over its slots, by the last part of their names."""


class LowRank(Attached):
    """An adapter under which each target computes W0·x + ΔW·x with ΔW of rank r at most."""

    def __init__(self, loaded: LoadedModel, section: AdapterSection, task: str) -> None:
        self.model = loaded.model
        self._loaded = loaded
        self._section = section
        self._task = task
        refuse_second(loaded.model)
        self.slots = section.rank
        self.scale = 1.0
        self.shared_origin = "none"
        self._frozen: dict[str, torch.Tensor] = {}
        self._sketch: dict[str, float] | None = None
        self._targets = resolve_targets(loaded, section.targets)
        self._base = BaseWeights({name: loaded.model.get_submodule(name) for name in self._targets})
        loaded.model.requires_grad_(False)
        self._head = head_parameters(loaded) if section.head else {}
        trained = self._place() | self._head
        self._parameters = {name: trained[name] for name in sorted(trained)}
        for parameter in self._parameters.values():
            parameter.requires_grad_(True)

    @abstractmethod
    def _place(self) -> dict[str, nn.Parameter]:
        """Put the adapter's layers around the targets; returns its trainable tensors by canonical name.

        Sets `_frozen` and `shared_origin` where it has frozen factors, and `slots` and `scale` where they are others.
        """

    @abstractmethod
    def _product(self, name: str, state: State) -> tuple[torch.Tensor, torch.Tensor]:
        """The (A, B) of one target, of shapes (q, in) and (out, q), B·A = ΔW: double precision, CPU."""

    def parameters(self) -> dict[str, nn.Parameter]:
        """The trainable tensors by canonical name, sorted; the task head's names start with `head.`."""
        return dict(self._parameters)

    def targets(self) -> tuple[str, ...]:
        """Dotted names of the adapted modules in the base model, sorted."""
        return self._targets

    def target_shapes(self) -> Shapes:
        """The (out, in) shape of each adapted module's weight, also where it is held transposed or in 4 bits."""
        return {name: dimensions(self.model.get_submodule(name)) for name in self._targets}

    def shared(self) -> State:
        """Copies of the frozen factors; empty where there are none."""
        return copy_state(self._frozen)

    def load_shared(self, factors: Mapping[str, torch.Tensor]) -> None:
        """Put other factors in place; raises AdapterError where names or shapes differ, or for NaN and infinity."""
        if factors and not self._frozen:
            raise AdapterError(f"a {self._section.kind} adapter has no frozen factors, and was given {min(factors)!r}")
        check_same_tensors(shapes_of(factors), shapes_of(self._frozen), what="the set of frozen factors")
        if bad := [name for name, tensor in factors.items() if not bool(torch.isfinite(tensor).all())]:
            raise AdapterError(f"the frozen factor {min(bad)!r} holds NaN or infinity")
        for name, tensor in self._frozen.items():
            tensor.detach().copy_(factors[name])
        self._sketch = None

    def sketch(self) -> dict[str, float]:
        """As in the contract; computed once, for the factors may be hundreds of megabytes."""
        if self._sketch is None:
            self._sketch = super().sketch()
        return dict(self._sketch)

    def axes(self) -> Axes:
        """For each trainable tensor the axes that run over the slots; none for the head's."""
        return {name: () if name.startswith(PREFIX) else SLOT_AXES[name.rpartition(".")[2]] for name in self.shapes()}

    def products(self, state: State) -> Products:
        """What `state` adds to the weight of each target: (A, B) in double precision on the CPU, the scale in B.

        Raises AdapterError where names or shapes are not this adapter's; the head's may be left out.
        """
        check_same_tensors(_without_head(shapes_of(state)), _without_head(self.shapes()), what="the adapter state")
        return {name: self._product(name, state) for name in self._targets}

    def shift_to(self, shift: Shift) -> None:
        """Put W0 + shift in the place of the targets' weights; `NO_SHIFT` puts W0 back, bit for bit.

        Raises AdapterError, and changes nothing, where a module or shape is unknown, a number is not finite, or the
        base is quantised.
        """
        self._base.shift_to(shift)

    def save(self, folder: Path, base: str) -> None:
        """Write a PEFT LoRA folder, replaced as a whole: `PeftModel.from_pretrained` gives this model's outputs.

        What the base weights are shifted by is part of it, so that it belongs on the plain base model. The task head
        is written whether it was trained or not: a new one is random. Raises AdapterError where a number is NaN or
        infinite, or `folder` holds other files; RunError where it cannot be written.
        """
        write_adapter(self.saved(base), folder)

    def saved(self, base: str) -> SavedAdapter:
        """What `save` writes."""
        return SavedAdapter(
            base=base,
            products=stacked(self.products(self.read()), self._base.shift),
            head=head_state(self._loaded),
            head_modules=self._loaded.head,
            task_type=TASK_TYPES[self._task],
            transposed=any(is_transposed(base_of(self.model.get_submodule(name))) for name in self._targets),
        )

    def merged(self) -> nn.Module:
        """A plain copy of the base model with the adapter, and the shift, folded into its weights; frozen, eval mode.

        Raises AdapterError for a quantised base, whose weights cannot take the sum up.
        """
        return merged_copy(self.model, self.products(self.read()))


def _without_head(shapes: Shapes) -> Shapes:
    return {name: shape for name, shape in shapes.items() if not name.startswith(PREFIX)}


def exact(tensor: torch.Tensor) -> torch.Tensor:
    """The same numbers in double precision on the CPU."""
    return tensor.detach().cpu().double()
