"""Products and changes of base weights as one product a module: what an adapter on the plain base model has to add."""

from collections.abc import Mapping

import torch

from fedtune.adapters.base import Products
from fedtune.adapters.shift import Shift, dense_of, modules_of


def stacked(products: Products, shift: Shift) -> Products:
    """For each module (A, B) whose product is ΔW plus the shift, without loss.

    A shift's factors stand beside the product's, [A; V] and [B, U]. Where that is more than the full rank, or the
    shift is dense, the whole sum is one factor and the other is the identity.
    """
    changed = frozenset(modules_of(shift.tensors))
    return {name: _stack(*pair, shift.tensors if name in changed else {}, name) for name, pair in products.items()}


def _stack(
    a: torch.Tensor, b: torch.Tensor, tensors: Mapping[str, torch.Tensor], name: str
) -> tuple[torch.Tensor, torch.Tensor]:
    u, v = tensors.get(f"{name}.U"), tensors.get(f"{name}.V")
    if u is not None and v is not None:
        a, b = torch.cat((a, v.to(a))), torch.cat((b, u.to(b)), dim=1)
    out, in_, dense = len(b), a.shape[1], f"{name}.D" in tensors
    if not dense and len(a) <= min(out, in_):
        return a, b
    total = b @ a + (dense_of(tensors, name).to(b) if dense else 0)
    return (torch.eye(in_).to(a), total) if in_ <= out else (total, torch.eye(out).to(b))
