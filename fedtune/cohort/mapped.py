"""Which projections are matrices and nothing else, and which matrices those are."""

from collections.abc import Callable, Mapping, Sequence
from functools import cache
from typing import Any

import torch
from torch import nn

from fedtune.adapters.layers import base_of
from fedtune.adapters.square_layer import SquareLayer
from fedtune.cohort.layers import CohortModule
from fedtune.cohort.maps import Map, Path
from fedtune.cohort.place import ADAPTER


def map_of(module: nn.Module) -> Map | None:
    """The map of a projection with whatever adapter is on it; None where it is more than matrices, or not known."""
    base = frozen_part(module)
    if type(base) is not nn.Linear:
        return None
    if module is base:
        return Map(((base.weight,),), base.bias)
    side = module.path() if isinstance(module, CohortModule) else _sides().get(type(module), _none)(module)
    return None if side is None else Map(((base.weight,), side), base.bias)


def maps_of(modules: Sequence[nn.Module], dtype: torch.dtype) -> tuple[Map, ...]:
    """The maps of some projections; none where one is more than matrices of this kind of numbers."""
    maps = tuple(found for module in modules if (found := map_of(module)) is not None)
    return maps if len(maps) == len(modules) and _alike(maps, dtype) else ()


def alone(module: nn.Module) -> nn.Module:
    """What one client has in the place of a cohort's layer."""
    single: nn.Module = getattr(module, "alone", module)
    return single


def frozen_part(module: nn.Module) -> nn.Module:
    """The base model's own layer inside one client's adapter or a cohort's."""
    return base_of(alone(module))


def _square(layer: SquareLayer) -> Path:
    return layer.A, layer.R, layer.B


def _lora(layer: Any) -> Path | None:
    if not isinstance(layer.lora_dropout[ADAPTER], nn.Identity):
        return None
    scale = float(layer.scaling[ADAPTER])
    return layer.lora_A[ADAPTER].weight, scale * layer.lora_B[ADAPTER].weight


def _none(_: nn.Module) -> None:
    return None


@cache
def _sides() -> Mapping[type[nn.Module], Callable[[Any], Path | None]]:
    from peft.tuners.lora import Linear as LoraLinear  # takes seconds

    return {LoraLinear: _lora, SquareLayer: _square}


def _alike(maps: tuple[Map, ...], dtype: torch.dtype) -> bool:
    """Are all of their numbers of this kind?"""
    return all(matrix.dtype == dtype for one in maps for path in one.paths for matrix in path)
