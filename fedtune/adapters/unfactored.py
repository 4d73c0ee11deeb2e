"""What adapters have in common that add no product of factors to weights: their tensors are averaged as they are."""

from collections.abc import Mapping
from typing import NoReturn

import torch
from torch import nn

from fedtune.adapters.base import Attached, Products
from fedtune.adapters.shift import Shift
from fedtune.adapters.slots import Axes
from fedtune.errors import AdapterError
from fedtune.recipe.adapter import AdapterKind
from fedtune.state import Shapes, State


class Unfactored(Attached):
    """An adapter of the tensors in `_parameters` alone, without frozen factors, slots or targets."""

    kind: AdapterKind
    shared_origin = "none"
    slots = 0
    scale = 1.0
    _parameters: dict[str, nn.Parameter]

    def parameters(self) -> dict[str, nn.Parameter]:
        """The trained tensors by canonical name, sorted; the task head's names start with `head.`."""
        return dict(self._parameters)

    def shared(self) -> State:
        """Empty: there are no factors."""
        return {}

    def load_shared(self, factors: Mapping[str, torch.Tensor]) -> None:
        """Nothing for nothing; raises AdapterError for any factor."""
        if factors:
            raise AdapterError(f'adapter.kind = "{self.kind}" has no frozen factors, and was given {min(factors)!r}')

    def initialise(self, gradients: Mapping[str, torch.Tensor]) -> None:
        """Raise AdapterError: the start reads no gradients."""
        raise AdapterError(f'adapter.kind = "{self.kind}" reads no gradients')

    def axes(self) -> Axes:
        """No tensor has slots: every client trains all of it."""
        return dict.fromkeys(self._parameters, ())

    def products(self, state: State) -> Products:
        """Raise AdapterError: there is no product of factors."""
        return self._refuse("adds no product of factors to the weights")

    def shift_to(self, shift: Shift) -> None:
        """Nothing for no shift; raises AdapterError for any other, which no scheme for these kinds makes."""
        if shift:
            self._refuse("has no place for a change of the base weights")

    def targets(self) -> tuple[str, ...]:
        """Empty: no module is adapted."""
        return ()

    def target_shapes(self) -> Shapes:
        """Empty: no weight takes up a product."""
        return {}

    def _refuse(self, why: str) -> NoReturn:
        raise AdapterError(f'adapter.kind = "{self.kind}" {why}; set aggregation.scheme = "mean"')
