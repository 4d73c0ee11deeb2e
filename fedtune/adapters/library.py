"""Any method of the `peft` library as an adapter: IA3, LoHa, VeRA, prompt tuning and their like."""

import copy
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from fedtune.adapters.base import Attached, Products, SharedOrigin
from fedtune.adapters.check import check_same_tensors
from fedtune.adapters.head import head_parameters, head_state
from fedtune.adapters.layers import base_of, is_quantised, refuse_second
from fedtune.adapters.library_config import make_config
from fedtune.adapters.library_files import write_method
from fedtune.adapters.library_place import place
from fedtune.adapters.saved import TASK_TYPES
from fedtune.adapters.shift import Shift
from fedtune.adapters.slots import Axes
from fedtune.errors import AdapterError
from fedtune.models.base import LoadedModel
from fedtune.recipe import AdapterSection
from fedtune.state import Shapes, State, copy_state, shapes_of

PREFIXES = ("PREFIX_TUNING", "CARTRIDGE")
"""Methods that train keys and values in front of the tokens' own."""


class Library(Attached):
    """A model that PEFT has changed; its trained tensors are named as in PEFT, without the adapter's name.

    `model` is PEFT's, called as the base model is called and with outputs of the same shapes. The start is drawn from
    `adapter.seed`; frozen random parts (VeRA's projections) are recomputed by every client. The methods add no product
    of factors to weights, so the weighted mean is the one scheme for them. Guarantees: what the base model was made of
    is frozen and unchanged.
    """

    slots = 0
    scale = 1.0

    def __init__(self, loaded: LoadedModel, section: AdapterSection, task: str) -> None:
        refuse_second(loaded.model)
        self._loaded, self._section, self._task = loaded, section, task
        config = make_config(loaded, section, task)
        placed = place(loaded.model, config, section)
        self.model = placed.model.eval()
        self._frozen = placed.frozen
        self.shared_origin: SharedOrigin = "recomputed" if self._frozen else "none"
        trained = placed.trained | (head_parameters(loaded) if section.head else {})
        self._parameters = {name: trained[name] for name in sorted(trained)}
        for parameter in self._parameters.values():
            parameter.requires_grad_(True)
        if config.is_prompt_learning and task == "causal-lm":
            self.model.register_forward_hook(_without_prompt, with_kwargs=True)
        if str(config.peft_type.value) in PREFIXES:
            self.model.register_forward_pre_hook(_refuse_recomputing)

    def parameters(self) -> dict[str, nn.Parameter]:
        """The trainable tensors by canonical name, sorted; the task head's names start with `head.`."""
        return dict(self._parameters)

    def shared(self) -> State:
        """Copies of what the method draws and never trains; empty for most."""
        return copy_state(self._frozen)

    def load_shared(self, factors: Mapping[str, torch.Tensor]) -> None:
        """Put other frozen parts in place; raises AdapterError where names or shapes differ."""
        check_same_tensors(shapes_of(factors), shapes_of(self._frozen), what="the set of frozen parts")
        for name, tensor in self._frozen.items():
            tensor.detach().copy_(factors[name])

    def initialise(self, gradients: Mapping[str, torch.Tensor]) -> None:
        """Raise AdapterError: the library's starts read no gradients."""
        raise AdapterError(f'adapter.peft_type = "{self._section.peft_type}" reads no gradients')

    def axes(self) -> Axes:
        """No tensor has slots: every client trains all of it."""
        return dict.fromkeys(self._parameters, ())

    def products(self, state: State) -> Products:
        """Raise AdapterError: there is no product of factors."""
        raise AdapterError(
            f'adapter.peft_type = "{self._section.peft_type}" adds no product of factors to the weights; '
            f'set aggregation.scheme = "mean"'
        )

    def shift_to(self, shift: Shift) -> None:
        """Nothing for no shift; raises AdapterError for any other, which no scheme for these methods makes."""
        if shift:
            raise AdapterError(
                f'adapter.peft_type = "{self._section.peft_type}" has no place for a change of the base weights; '
                f'set aggregation.scheme = "mean"'
            )

    def targets(self) -> tuple[str, ...]:
        """Dotted names of the modules that PEFT changed; none for methods that only add a prompt."""
        from peft.tuners.tuners_utils import BaseTunerLayer

        return tuple(sorted(n for n, m in self._loaded.model.named_modules() if isinstance(m, BaseTunerLayer)))

    def target_shapes(self) -> Shapes:
        """Empty: no weight takes up a product."""
        return {}

    def save(self, folder: Path, base: str) -> None:
        """Write the method's own PEFT folder, replaced as a whole: `PeftModel.from_pretrained` gives these outputs.

        The task head goes along, trained or not: a new one is random. Raises AdapterError where a number is NaN or
        infinite, or `folder` holds other files; RunError where it cannot be written.
        """
        write_method(self.model, folder, base, head_state(self._loaded), self._loaded.head, TASK_TYPES[self._task])

    def merged(self) -> nn.Module:
        """A plain copy of the base model with the method folded in by PEFT; frozen, in eval mode.

        Raises AdapterError for a method that cannot be folded into weights, and for a quantised base.
        """
        if any(_is_quantised(self._loaded.model.get_submodule(target)) for target in self.targets()):
            raise AdapterError(
                "a quantised base cannot take up an adapter: load the base with "
                'model.quantization = "none" to merge, or export the adapter alone.'
            )
        copied: Any = copy.deepcopy(self.model)
        try:
            plain: nn.Module = copied.merge_and_unload()
        except (NotImplementedError, AttributeError, ValueError, TypeError) as error:
            raise AdapterError(
                f'"{self._section.peft_type}" cannot be folded into the weights of the base model; '
                f"export the adapter alone."
            ) from error
        if hasattr(plain, "peft_config"):
            del plain.peft_config  # PEFT's mark on models that it changed
        for parameter in plain.parameters():
            parameter.grad = None
        return plain.requires_grad_(False).eval()


def _is_quantised(layer: nn.Module) -> bool:
    base = base_of(layer)
    return isinstance(getattr(base, "weight", None), nn.Parameter) and is_quantised(base)


def _without_prompt(_model: nn.Module, _args: Any, kwargs: dict[str, Any], output: Any) -> Any:
    """A prompt in front of the tokens has outputs of its own: only those of the given tokens are left."""
    output.logits = output.logits[:, -kwargs["input_ids"].shape[1] :]
    return output


def _refuse_recomputing(model: nn.Module, _args: Any) -> None:
    """A prefix lies in the key-value cache, which a model that recomputes its activations drops without a word."""
    if model.training and any(getattr(module, "gradient_checkpointing", False) for module in model.modules()):
        raise AdapterError(
            "a trained prefix does not reach layers that recompute their activations; "
            "set training.gradient_checkpointing = false."
        )
