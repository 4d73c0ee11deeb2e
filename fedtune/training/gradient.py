"""Gradients of the loss with respect to the full frozen weights, as initialisations such as LoRA-SB's read them."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace

import torch
from torch import nn

from fedtune.adapters.shift import NO_SHIFT
from fedtune.data.base import Rows
from fedtune.errors import DataError
from fedtune.state import State
from fedtune.training.forward import count_targets, forward
from fedtune.training.memory import within_memory
from fedtune.training.mode import in_mode
from fedtune.training.order import draw_rows, slices
from fedtune.training.resident import Resident


def mean_gradients(resident: Resident, rows: Rows, *, limit: int, seed: int) -> State:
    """The gradient of the mean loss at the base weights W0, by target module: (out, in), fp32, CPU.

    Reads up to `limit` rows drawn by `seed`, without dropout, in passes of `training.batch_size`; beside the result it
    holds one pass and one module's gradient. The mean is over rows, or answer tokens. The weights stay frozen, and the
    adapter keeps its state. Works for any layer that maps x (..., in) to W·x (..., out), transposed (Conv1D) and
    4-bit weights included. Raises DataError where there is nothing to learn from.
    """
    model = resident.loaded.model
    eager = replace(resident, call=resident.attached.model)  # a compiled model does not see hooks that come later
    targets = {name: model.get_submodule(name) for name in resident.attached.targets()}
    sums: State = {}
    seen = 0
    with (
        resident.lock,
        _at_base_weights(resident),
        in_mode(model, training=False),
        _collecting(targets, sums),
        within_memory(resident.device, advice="lower training.batch_size"),
    ):
        for indices in slices(draw_rows(len(rows), limit, seed), resident.recipe.training.batch_size):
            batch = rows.batch(indices)
            if count := count_targets(batch):
                (forward(eager, batch).loss * count).backward()
                seen += count
    if not seen:
        raise DataError("there are no rows to read a gradient from; give adapter.init another value or more rows.")
    return {name: sums[name].div_(seen) for name in sorted(sums)}


@contextmanager
def _at_base_weights(resident: Resident) -> Iterator[None]:
    """The model without its adapter: its tensors at zero, the head as a run starts from it; put back at the end.

    Nothing is added to the base weights then or after: whoever needs a shift asks for it.
    """
    resident.attached.shift_to(NO_SHIFT)
    before = resident.attached.read()
    base = {name: t if name.startswith("head.") else torch.zeros_like(t) for name, t in resident.initial.items()}
    resident.attached.load(base)
    try:
        yield
    finally:
        for parameter in resident.attached.parameters().values():
            parameter.grad = None
        resident.attached.load(before)


@contextmanager
def _collecting(targets: dict[str, nn.Module], sums: State) -> Iterator[None]:
    """Add each backward pass's weight gradients to `sums`, module by module as they become known."""
    handles = [module.register_forward_hook(_collector(name, sums)) for name, module in targets.items()]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _collector(name: str, sums: State) -> Callable[[nn.Module, tuple[torch.Tensor, ...], torch.Tensor], torch.Tensor]:
    """A forward hook that, when the output's gradient arrives, adds gᵀ·x: the gradient of a weight that is frozen."""

    def hook(_: nn.Module, inputs: tuple[torch.Tensor, ...], output: torch.Tensor) -> torch.Tensor:
        x = inputs[0].detach()
        if not output.requires_grad:  # nothing before the first modules is trained; a clone may be changed in place
            output = output.detach().requires_grad_().clone()

        def add(gradient: torch.Tensor) -> None:
            g = gradient.reshape(-1, gradient.shape[-1]).float()
            total = (g.T @ x.reshape(-1, x.shape[-1]).float()).cpu()
            sums[name] = sums[name].add_(total) if name in sums else total

        output.register_hook(add)  # type: ignore[no-untyped-call]
        return output

    return hook
