"""The slots of an adapter: what a client of smaller rank trains of it, and how its tensors fit into the whole.

A slot is one index of the inner dimension (`lora`, `square`) or one head (`ravan`). `axes` says for each tensor which
of its axes run over the slots; a tensor without such an axis (the task head) is everybody's.
"""

from collections.abc import Mapping

import torch

from fedtune.seeds import generator
from fedtune.state import Shapes, State

Axes = Mapping[str, tuple[int, ...]]
"""By tensor name, the axes that run over the slots; empty for a tensor that every client trains whole."""

Slots = tuple[int, ...] | None
"""The slots that a client trains, ascending; None for all of them."""


def choose_slots(kind: str, total: int, rank: int, *, seed: int, round_: int, client: str) -> Slots:
    """The slots of a client of `rank` out of `total`.

    The leading ones, for those are the directions that matter most; heads of `ravan` are alike, and are drawn anew
    each round so that every head is trained.
    """
    if rank >= total:
        return None
    if kind != "ravan":
        return tuple(range(rank))
    draw = generator(seed, "heads", round_=round_, client=client)
    return tuple(sorted(torch.randperm(total, generator=draw)[:rank].tolist()))


def narrow(tensors: Mapping[str, torch.Tensor], axes: Axes, slots: Slots) -> State:
    """The part of each tensor that belongs to `slots`: copies, where there is something to leave out."""
    if slots is None:
        return dict(tensors)
    index = torch.tensor(slots)
    return {name: _select(tensor, axes.get(name, ()), index).contiguous() for name, tensor in tensors.items()}


def narrow_shapes(shapes: Shapes, axes: Axes, slots: Slots) -> Shapes:
    """The shapes that `narrow` gives."""
    if slots is None:
        return dict(shapes)
    return {
        name: tuple(len(slots) if axis in axes.get(name, ()) else size for axis, size in enumerate(shape))
        for name, shape in shapes.items()
    }


def widen(tensors: Mapping[str, torch.Tensor], shapes: Shapes, axes: Axes, slots: Slots) -> State:
    """The tensors in their full shapes, zero outside of `slots`."""
    if slots is None:
        return dict(tensors)
    return {name: _place(tensor, shapes[name], axes.get(name, ()), slots) for name, tensor in tensors.items()}


def mask(shape: tuple[int, ...], axes: tuple[int, ...], slots: Slots) -> torch.Tensor:
    """One where `slots` reach and zero elsewhere; it broadcasts to `shape`."""
    full = torch.ones([size if axis in axes else 1 for axis, size in enumerate(shape)])
    if slots is None:
        return full
    for axis in axes:
        line = torch.zeros(shape[axis])
        line[list(slots)] = 1.0
        full = full * line.reshape([-1 if a == axis else 1 for a in range(len(shape))])
    return full


def _select(tensor: torch.Tensor, axes: tuple[int, ...], index: torch.Tensor) -> torch.Tensor:
    for axis in axes:
        tensor = tensor.index_select(axis, index)
    return tensor


def _place(tensor: torch.Tensor, shape: tuple[int, ...], axes: tuple[int, ...], slots: tuple[int, ...]) -> torch.Tensor:
    full = torch.zeros(shape, dtype=tensor.dtype)
    places = [torch.tensor(slots) if axis in axes else torch.arange(size) for axis, size in enumerate(shape)]
    full[torch.meshgrid(*places, indexing="ij")] = tensor
    return full
