"""Which cohort layer takes the place of which layer of an adapted model, and for how long."""

from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import cache
from typing import Any

from torch import nn

from fedtune.adapters.base import Attached
from fedtune.adapters.prompt_layer import PromptLayer
from fedtune.adapters.ravan_layer import RavanLayer
from fedtune.adapters.square_layer import SquareLayer
from fedtune.cohort.dropping import CohortDropout
from fedtune.cohort.lane import Lane
from fedtune.cohort.layers import CohortLinear, CohortLora, CohortModule, CohortRavan, CohortSquare
from fedtune.cohort.prompted import CohortPrompt
from fedtune.errors import AdapterError
from fedtune.models.head import is_inside

Names = Mapping[int, str]
"""Canonical names of the adapter's tensors, by identity."""
ADAPTER = "default"
"""PEFT's name for the one adapter that its layers hold."""


def cohort_layers(attached: Attached, lane: Lane) -> dict[str, CohortModule]:
    """The cohort layer of every layer that holds a tensor of the adapter, by its name in the model.

    Raises AdapterError where such a layer has no counterpart here, or a tensor is used in several.
    """
    names = {id(parameter): name for name, parameter in attached.parameters().items()}
    layers: dict[str, CohortModule] = {}
    for where, module in attached.model.named_modules():
        make = _makers().get(type(module))
        if make and not is_inside(where, tuple(layers)) and (layer := make(module, lane, names)):
            layers[where] = layer
    held = Counter(id(p) for layer in layers.values() for p in layer.alone.parameters())
    if other := sorted(name for key, name in names.items() if held[key] != 1):
        raise AdapterError(f"{other[0]!r} is in no layer, or in several, that many clients can share")
    return layers


@contextmanager
def in_place(model: nn.Module, layers: Mapping[str, CohortModule]) -> Iterator[None]:
    """The cohort layers in the model; those that were there are back at the end."""
    try:
        for where, layer in layers.items():
            model.set_submodule(where, layer)
        yield
    finally:
        for where, layer in layers.items():
            model.set_submodule(where, layer.alone)


def _lora(layer: Any, lane: Lane, names: Names) -> CohortModule | None:
    dropout: Any = layer.lora_dropout[ADAPTER]
    drops = None if isinstance(dropout, nn.Identity) else CohortDropout(dropout, lane)
    a, b = layer.lora_A[ADAPTER].weight, layer.lora_B[ADAPTER].weight
    return CohortLora(layer, lane, names.get(id(a), a.detach()), names[id(b)], float(layer.scaling[ADAPTER]), drops)


def _square(layer: nn.Module, lane: Lane, names: Names) -> CohortModule | None:
    return CohortSquare(layer, lane, names[id(layer.R)]) if isinstance(layer, SquareLayer) else None


def _ravan(layer: nn.Module, lane: Lane, names: Names) -> CohortModule | None:
    return CohortRavan(layer, lane, names[id(layer.H)], names[id(layer.s)]) if isinstance(layer, RavanLayer) else None


def _prompt(layer: nn.Module, lane: Lane, names: Names) -> CohortModule | None:
    return CohortPrompt(layer, lane, names[id(layer.input)]) if isinstance(layer, PromptLayer) else None


def _linear(layer: nn.Module, lane: Lane, names: Names) -> CohortModule | None:
    if not isinstance(layer, nn.Linear) or id(layer.weight) not in names:
        return None
    return CohortLinear(layer, lane, names[id(layer.weight)], names.get(id(layer.bias)))


@cache
def _makers() -> Mapping[type[nn.Module], Callable[[nn.Module, Lane, Names], CohortModule | None]]:
    from peft.tuners.lora import Linear as LoraLinear  # takes seconds

    return {LoraLinear: _lora, SquareLayer: _square, RavanLayer: _ravan, PromptLayer: _prompt, nn.Linear: _linear}
