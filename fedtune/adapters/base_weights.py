"""The base weights of the adapted layers: shifted by what rounds have added to them, and put back bit for bit."""

from collections.abc import Mapping

import torch
from torch import nn

from fedtune.adapters.layers import dimensions, is_quantised, is_transposed, parameter_of
from fedtune.adapters.shift import NO_SHIFT, Shift, dense_of, modules_of
from fedtune.errors import AdapterError
from fedtune.state import State


class BaseWeights:
    """The weights of some layers, at W0 or at W0 + shift.

    Guarantees: a shift is always added to W0 itself, so that the weights depend on the last shift alone; what is
    refused has changed nothing. Copies of W0 (on the CPU) are kept while there is a shift, and no longer.
    """

    def __init__(self, layers: Mapping[str, nn.Module]) -> None:
        """`layers`: the base model's own layers by dotted name."""
        self._layers = dict(layers)
        self._kept: State = {}
        self.shift = NO_SHIFT
        """What is in place."""

    def shift_to(self, shift: Shift) -> None:
        """Put W0 + shift in place, summed in double precision and rounded once; raises AdapterError."""
        if shift.key == self.shift.key:
            return
        modules = modules_of(shift.tensors)
        self._check(shift, modules)
        for module in self._kept.keys() - set(modules):
            self._weight(module).copy_(self._kept.pop(module))
        for module in modules:
            weight = self._weight(module)
            kept = self._kept.setdefault(module, weight.to("cpu", copy=True))
            weight.copy_(_sum(self._layers[module], kept, shift.tensors, module, weight.device))
        self.shift = shift

    def _weight(self, module: str) -> torch.Tensor:
        return parameter_of(self._layers[module], "weight").detach()

    def _check(self, shift: Shift, modules: tuple[str, ...]) -> None:
        if unknown := sorted(set(modules) - self._layers.keys()):
            raise AdapterError(f"a change of base weights is for {unknown[0]!r}, which this adapter does not sit on")
        for module in modules:
            layer = self._layers[module]
            if is_quantised(layer):
                raise AdapterError(
                    f'"{module}" is quantised and cannot take up a change of its weight: load the base with '
                    f'model.quantization = "none", or choose another aggregation.scheme.'
                )
            _check_tensors(shift.tensors, module, dimensions(layer))


def _sum(
    layer: nn.Module, weight: torch.Tensor, tensors: Mapping[str, torch.Tensor], module: str, device: torch.device
) -> torch.Tensor:
    """W0 + ΔW in double precision, in the layer's own orientation, on a device that has doubles."""
    place = device if device.type == "cuda" else torch.device("cpu")
    own = {name: tensor.to(place) for name, tensor in _of(module, tensors).items()}
    change_MN = dense_of(own, module)
    return weight.to(place).double() + (change_MN.T if is_transposed(layer) else change_MN)


def _of(module: str, tensors: Mapping[str, torch.Tensor]) -> Mapping[str, torch.Tensor]:
    return {name: tensor for name, tensor in tensors.items() if name.rpartition(".")[0] == module}


def _check_tensors(tensors: Mapping[str, torch.Tensor], module: str, shape: tuple[int, int]) -> None:
    own = _of(module, tensors)
    sizes = {name.removeprefix(f"{module}."): tuple(tensor.shape) for name, tensor in own.items()}
    out, in_ = shape
    inner = sizes.get("U", (0, 0))[-1]
    if sizes not in ({"D": (out, in_)}, {"U": (out, inner), "V": (inner, in_)}):
        raise AdapterError(f"the change of the base weight of {module!r} does not fit its {out} x {in_} numbers")
    if not all(bool(tensor.isfinite().all()) for tensor in own.values()):
        raise AdapterError(f"the change of the base weight of {module!r} holds NaN or infinity")
