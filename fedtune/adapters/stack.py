"""Products and changes of base weights as one product a module: what an adapter on the plain base model has to add."""

from collections.abc import Mapping

import torch

from fedtune.adapters.base import Products
from fedtune.adapters.shift import Shift, dense_of, modules_of


def stacked(products: Products, shift: Shift) -> Products:
    """For each module (A, B) whose product is ΔW plus the shift, without loss; its rank grows where there is a shift.

    Factors are put side by side, [A; V] and [B, U]; where that is more than the full rank, or the shift is dense, the
    whole sum is one factor and the other is the identity.
    """
    changed = frozenset(modules_of(shift.tensors))
    return {name: _together(pair, shift.tensors, name) if name in changed else pair for name, pair in products.items()}


def _together(
    pair: tuple[torch.Tensor, torch.Tensor], tensors: Mapping[str, torch.Tensor], name: str
) -> tuple[torch.Tensor, torch.Tensor]:
    a, b = pair
    out, in_ = b.shape[0], a.shape[1]
    u, v = tensors.get(f"{name}.U"), tensors.get(f"{name}.V")
    if u is not None and v is not None and a.shape[0] + v.shape[0] <= min(out, in_):
        return torch.cat((a, v.to(a))), torch.cat((b, u.to(b)), dim=1)
    total = b.double() @ a.double() + dense_of(tensors, name)
    if in_ <= out:
        return torch.eye(in_).to(a), total.to(b)
    return total.to(a), torch.eye(out).to(b)
