"""Gradients by example of the trained tensors, caught by hooks while a backward pass goes by."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import nn

from fedtune.data.base import Batch
from fedtune.errors import PrivacyError
from fedtune.privacy.clipping import Gradients
from fedtune.training.private_loss import example_losses
from fedtune.training.private_samplers import samplers
from fedtune.training.resident import Resident


@dataclass(frozen=True, slots=True)
class Pass:
    """What one forward and backward pass brought."""

    losses: torch.Tensor
    """(N,), detached."""
    gradients: Gradients
    """The gradient of each example's own loss, (N, *shape) fp32 by tensor."""
    total: Mapping[str, torch.Tensor]
    """What autograd makes of the batch as a whole: the sum of the gradients, where none of their parts is missed."""


class ExampleGradients:
    """Takes gradients by example on one resident, inside of `taking`."""

    def __init__(self, resident: Resident, parameters: Mapping[str, nn.Parameter]) -> None:
        self._resident = resident
        self._parameters = dict(parameters)
        self._names = {id(parameter): name for name, parameter in parameters.items()}
        self._found: Gradients = {}

    def of(self, batch: Batch) -> Pass:
        """One pass over a batch of one or more examples.

        Guarantees: every trained tensor has one gradient an example, and no parameter keeps autograd's. A layer that is
        used several times in a pass adds up. Raises PrivacyError where a tensor has none, or not one an example.
        """
        try:
            losses = example_losses(self._resident, batch)
            losses.sum().backward()  # type: ignore[no-untyped-call]
            total = {name: p.grad for name, p in self._parameters.items() if p.grad is not None}
            for name, parameter in self._parameters.items():
                _require(name, self._found.get(name), (len(losses), *parameter.shape))
            return Pass(losses.detach(), self._found, total)
        finally:
            self._found = {}
            for parameter in self._parameters.values():
                parameter.grad = None

    def add(self, module: nn.Module, inputs: tuple[torch.Tensor, ...], gradient: torch.Tensor) -> None:
        """Note what a layer's backward pass brought; in fp32, under autocast too."""
        taken = samplers()[type(module)](module, [tensor.float() for tensor in inputs], gradient.float())
        for parameter, more in taken.items():
            name = self._names[id(parameter)]
            known = self._found.get(name)
            if known is not None:
                _require(name, more, tuple(known.shape))
            self._found[name] = more if known is None else known + more


@contextmanager
def taking(
    resident: Resident, parameters: Mapping[str, nn.Parameter], layers: list[nn.Module]
) -> Iterator[ExampleGradients]:
    """Hooks on the layers that hold the trained tensors; none is left at the end."""
    gradients = ExampleGradients(resident, parameters)

    def watch(module: nn.Module, inputs: tuple[torch.Tensor, ...], output: torch.Tensor) -> None:
        kept = tuple(tensor.detach() for tensor in inputs)
        output.register_hook(lambda gradient: gradients.add(module, kept, gradient.detach()))  # type: ignore[no-untyped-call]

    handles = [layer.register_forward_hook(watch) for layer in layers]
    try:
        yield gradients
    finally:
        for handle in handles:
            handle.remove()


def _require(name: str, found: torch.Tensor | None, shape: tuple[int, ...]) -> None:
    if found is None or found.shape != shape:
        what = "none" if found is None else f"one of shape {tuple(found.shape)} where it should be {shape}"
        raise PrivacyError(
            f"{name!r} must have one gradient an example and has {what}, so it cannot be clipped by example; leave its "
            "module out of adapter.targets, or set adapter.head = false"
        )
