"""What has to be true of a model for private steps to hide anything: looked at before, during and after them."""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from fedtune.data.base import Rows
from fedtune.errors import PrivacyError
from fedtune.training.private_gradients import ExampleGradients
from fedtune.training.private_samplers import samplers

TOLERANCE = 0.1
"""Of a gradient's norm: far above its rounding, 4-bit weights included, and below what a mixed-in example makes."""
LEAST_LOSS = 0.1
"""Below it a gradient is a difference of almost equal numbers, and rounding alone moves it."""


def private_layers(model: nn.Module, parameters: Mapping[str, nn.Parameter]) -> list[nn.Module]:
    """The layers that hold the trained tensors.

    Raises PrivacyError where a trained tensor is no layer's own, is used in two places, or sits in a layer whose
    gradient cannot be taken by example; where anything else requires a gradient; or where the model mixes examples.
    """
    check_keeps_apart(model)
    trained = {id(parameter): name for name, parameter in parameters.items()}
    places = Counter(id(p) for _, p in model.named_parameters(remove_duplicate=False))
    for name, parameter in parameters.items():
        if places[id(parameter)] != 1:
            where = "more than one layer" if places[id(parameter)] else "no layer of the model"
            raise PrivacyError(
                f"{name!r} belongs to {where}, so its gradient cannot be taken by example; leave its module out of "
                "adapter.targets, or set adapter.head = false"
            )
    for own, parameter in model.named_parameters():
        if parameter.requires_grad and id(parameter) not in trained:
            raise PrivacyError(f"{own!r} requires a gradient and is not trained; freeze the base model")
    layers = [m for m in model.modules() if any(id(p) in trained for p in m.parameters(recurse=False))]
    for layer in layers:
        if type(layer) not in samplers():
            held = next(trained[id(p)] for p in layer.parameters(recurse=False) if id(p) in trained)
            raise PrivacyError(
                f"{held!r} is in a layer of class {type(layer).__name__}, whose gradient cannot be taken by example; "
                'set adapter.kind to "square", "lora" or "ravan", or adapter.head = false'
            )
    return layers


def check_apart(gradients: ExampleGradients, rows: Rows, pair: Sequence[int]) -> bool:
    """Look at two rows: is all of their gradient caught, and is each one's its own, whatever stands beside it?

    Compares the sum of the gradients by example with autograd's, and each with what it is where its row is alone, which
    the longer row's padding must not change either. False where the losses are too small to tell. Raises PrivacyError
    where there is a difference.
    """
    both = gradients.of(rows.batch(pair))
    if not bool((both.losses > LEAST_LOSS).all()):
        return False
    alone = [gradients.of(rows.batch([row])).gradients for row in pair]
    for name, found in both.gradients.items():
        limit = TOLERANCE * found.flatten(1).norm(dim=1).sum()
        if bool((found.sum(dim=0) - both.total[name]).norm() > limit):
            raise PrivacyError(
                f"{name!r} is used outside of its own layer too, where its gradient cannot be taken by example; leave "
                "its module out of adapter.targets"
            )
        if any(bool((found[i] - own[name][0]).norm() > limit) for i, own in enumerate(alone)):
            raise PrivacyError(
                f"the gradient of one row at {name!r} changes with the other rows of its batch: this model mixes rows, "
                "and clipping cannot hide one; choose another model"
            )
    return True


class Marks:
    """What a model's tensors were before its steps, as a number each, so that a change shows without a copy of them."""

    def __init__(self, model: nn.Module, parameters: Mapping[str, nn.Parameter]) -> None:
        self._model = model
        self._trained = {id(parameter) for parameter in parameters.values()}
        self._before = _marks(model)

    def check(self) -> None:
        """Raise PrivacyError where a tensor that is not trained holds other numbers than before."""
        after = _marks(self._model)
        for key in (self._before.keys() | after.keys()) - self._trained:
            if self._before.get(key) != after.get(key):
                name = (after.get(key) or self._before[key])[0]
                raise PrivacyError(
                    f"{name!r} was changed by private steps and is not trained: its change may tell of a row, so "
                    "nothing is sent; load the model anew"
                )


def _marks(model: nn.Module) -> dict[int, tuple[str, int]]:
    """Name and checksum of every parameter and buffer, by identity; a fused optimiser leaves no other trace."""
    return {id(tensor): (name, _checksum(tensor)) for name, tensor in _tensors(model)}


def _tensors(model: nn.Module) -> Iterator[tuple[str, torch.Tensor]]:
    yield from model.named_parameters()
    yield from model.named_buffers()


def _checksum(tensor: torch.Tensor) -> int:
    """The sum of a tensor's bytes, taken as integers, modulo 2⁶⁴: as fast as memory is read."""
    raw = tensor.detach().contiguous().reshape(-1).view(torch.uint8)
    if raw.storage_offset() % 8:  # part of a larger tensor, and not where an integer can begin
        raw = raw.clone()
    whole = raw.numel() // 8 * 8
    return int(raw[:whole].view(torch.int64).sum()) + int(raw[whole:].sum(dtype=torch.int64))


def check_keeps_apart(model: nn.Module) -> None:
    """Raise PrivacyError where a layer mixes the rows of a batch.

    A batch norm in evaluation mode treats each row alone, unless it has no statistics but the batch's.
    """
    for name, module in model.named_modules():
        if isinstance(module, _BatchNorm) and module.running_mean is None:
            raise PrivacyError(
                f"{name!r} normalises over the rows of a batch, so that one is seen in the others' gradients; choose a "
                "model without it"
            )
