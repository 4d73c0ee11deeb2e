"""What adapters have in common that add a low-rank product to linear layers: naming, freezing, saving, merging."""

from abc import abstractmethod
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import nn

from fedtune.adapters.base import Attached
from fedtune.adapters.export import write_adapter
from fedtune.adapters.head import head_parameters, head_state
from fedtune.adapters.layers import base_of, dimensions, is_adaptable, is_transposed
from fedtune.adapters.merge import merged_copy
from fedtune.adapters.saved import SavedAdapter
from fedtune.adapters.targets import resolve_targets
from fedtune.errors import AdapterError
from fedtune.models.base import LoadedModel
from fedtune.recipe import AdapterSection
from fedtune.state import Shapes, State, copy_state

TASK_TYPES = {"sequence-classification": "SEQ_CLS", "causal-lm": "CAUSAL_LM", "image-classification": ""}
"""PEFT's name for each task; it has none for images."""


class LowRank(Attached):
    """An adapter under which each target computes W0·x + ΔW·x with ΔW of rank r at most."""

    def __init__(self, loaded: LoadedModel, section: AdapterSection, task: str) -> None:
        self.model = loaded.model
        self._loaded = loaded
        self._section = section
        self._task = task
        _refuse_second(loaded.model)
        self._targets = resolve_targets(loaded, section.targets)
        loaded.model.requires_grad_(False)
        trained = self._place() | (head_parameters(loaded) if section.head else {})
        self._parameters = {name: trained[name] for name in sorted(trained)}
        for parameter in self._parameters.values():
            parameter.requires_grad_(True)

    @abstractmethod
    def _place(self) -> dict[str, nn.Parameter]:
        """Put the adapter's layers around the targets; returns its trainable tensors by canonical name."""

    @abstractmethod
    def _products(self) -> dict[str, tuple[torch.Tensor, torch.Tensor]]:
        """Per target (A, B) of shapes (r, in) and (out, r), whose product times `_alpha / rank` is ΔW; fp32, CPU."""

    @property
    @abstractmethod
    def _alpha(self) -> float:
        """LoRA's α."""

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
        """No frozen factors, unless a subclass has some."""
        return {}

    def load_shared(self, factors: Mapping[str, torch.Tensor]) -> None:
        """Raise AdapterError for any factors: there is no place for them."""
        if factors:
            raise AdapterError(f"a {self._section.kind} adapter has no frozen factors, and was given {min(factors)!r}")

    def save(self, folder: Path, base: str) -> None:
        """Write a PEFT LoRA folder, replaced as a whole: `PeftModel.from_pretrained` gives this model's outputs.

        The task head is written whether it was trained or not: a new one is random. Raises AdapterError where a number
        is NaN or infinite, or `folder` holds other files; RunError where it cannot be written.
        """
        write_adapter(self.saved(base), folder)

    def saved(self, base: str) -> SavedAdapter:
        """What `save` writes."""
        return SavedAdapter(
            base=base,
            rank=self._section.rank,
            alpha=self._alpha,
            products=self._products(),
            head=head_state(self._loaded),
            head_modules=self._loaded.head,
            task_type=TASK_TYPES[self._task],
            transposed=any(is_transposed(base_of(self.model.get_submodule(name))) for name in self._targets),
        )

    def merged(self) -> nn.Module:
        """A plain copy of the base model with the adapter folded into its weights, frozen and in eval mode.

        Raises AdapterError for a quantised base, whose weights cannot take the sum up.
        """
        return merged_copy(self.model, self._products(), scale=self._alpha / self._section.rank)


def cpu(tensor: torch.Tensor) -> torch.Tensor:
    """A copy in fp32 on the CPU."""
    return copy_state({"": tensor})[""]


def _refuse_second(model: nn.Module) -> None:
    for name, module in model.named_modules():
        if is_adaptable(base_of(module)) and base_of(module) is not module:
            raise AdapterError(f"the model carries an adapter already (on {name!r}); load the base model anew")
