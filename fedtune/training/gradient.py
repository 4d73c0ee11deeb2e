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

Seen = Callable[[str, torch.Tensor, torch.Tensor], None]
"""Told of a target by name, of its input (…, in) and of its output's gradient (…, out), fp32: gᵀ·x is the gradient of
its weight, which is frozen."""


def mean_gradients(resident: Resident, rows: Rows, *, limit: int, seed: int) -> State:
    """The gradient of the mean loss at the base weights W0, by target module: (out, in), fp32, CPU.

    Reads up to `limit` rows drawn by `seed`, without dropout, in passes of `training.batch_size`; beside the result it
    holds one pass and one module's gradient. The mean is over rows, or answer tokens. The weights stay frozen, and the
    adapter keeps its state. Works for any layer that maps x (..., in) to W·x (..., out), transposed (Conv1D) and
    4-bit weights included. Raises DataError where there is nothing to learn from.
    """
    sums: State = {}
    seen = 0

    def add(name: str, x: torch.Tensor, g: torch.Tensor) -> None:
        total = (g.reshape(-1, g.shape[-1]).T @ x.reshape(-1, x.shape[-1])).cpu()
        sums[name] = sums[name].add_(total) if name in sums else total

    with base_gradients(resident, add) as eager:
        for indices in slices(draw_rows(len(rows), limit, seed), resident.recipe.training.batch_size):
            batch = rows.batch(indices)
            if count := count_targets(batch):
                (forward(eager, batch).loss * count).backward()
                seen += count
    if not seen:
        raise DataError("there are no rows to read a gradient from; give adapter.init another value or more rows.")
    return {name: sums[name].div_(seen) for name in sorted(sums)}


@contextmanager
def base_gradients(resident: Resident, seen: Seen) -> Iterator[Resident]:
    """A resident to take passes on, at the base weights and without dropout; `seen` is told of every target in each
    backward pass. Everything is put back at the end."""
    model = resident.loaded.model
    targets = {name: model.get_submodule(name) for name in resident.attached.targets()}
    with (
        resident.lock,
        _at_base_weights(resident),
        in_mode(model, training=False),
        _watching(targets, seen),
        within_memory(resident.device, advice="lower training.batch_size"),
    ):
        # A compiled model does not see hooks that come later.
        yield replace(resident, call=resident.attached.model)


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
def _watching(targets: dict[str, nn.Module], seen: Seen) -> Iterator[None]:
    """Call `seen` in each backward pass, module by module as their gradients become known."""
    handles = [module.register_forward_hook(_watcher(name, seen)) for name, module in targets.items()]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _watcher(name: str, seen: Seen) -> Callable[[nn.Module, tuple[torch.Tensor, ...], torch.Tensor], torch.Tensor]:
    """A forward hook that passes the input on when the output's gradient arrives."""

    def hook(_: nn.Module, inputs: tuple[torch.Tensor, ...], output: torch.Tensor) -> torch.Tensor:
        x = inputs[0].detach()
        if not output.requires_grad:  # nothing before the first modules is trained; a clone may be changed in place
            output = output.detach().requires_grad_().clone()
        output.register_hook(lambda gradient: seen(name, x.float(), gradient.float()))  # type: ignore[no-untyped-call]
        return output

    return hook
