"""Task arithmetic (arXiv 2212.04089) of LoRA adapters, exactly: the factors stacked, not averaged.

Σ wᵢ·Bᵢ·Aᵢ = [w₁·B₁, …, wₙ·Bₙ]·[A₁; …; Aₙ]. The mean of the factors would hold the products Bᵢ·Aⱼ of one adapter with
another. Ranks add up; where they pass the smaller side of a layer, the sum itself is one factor.
"""

from collections.abc import Sequence
from dataclasses import replace

import torch

from fedtune.adapters.base import Products
from fedtune.adapters.saved import SavedAdapter
from fedtune.adapters.shift import NO_SHIFT, Shift
from fedtune.adapters.stack import stacked
from fedtune.state import State


def combine(adapters: Sequence[SavedAdapter], weights: Sequence[float]) -> SavedAdapter:
    """The adapter whose ΔW is Σ wᵢ·ΔWᵢ on every layer; all are of one model (`alike.check_same_model`).

    Guarantees: ΔW is the sum but for the rounding of one product with a weight, or of the sum itself where it is dense.
    Task heads are averaged, by the magnitudes of the weights: a head is a set of weights, not a change of some.
    """
    products = _weighted(adapters[0].products, weights[0])
    for adapter, weight in zip(adapters[1:], weights[1:], strict=True):
        products = stacked(products, _as_shift(_weighted(adapter.products, weight)))
    products = {name: (a.float(), b.float()) for name, (a, b) in stacked(products, NO_SHIFT).items()}
    return replace(adapters[0], products=products, head=mean_head([found.head for found in adapters], weights))


def mean_head(heads: Sequence[State], weights: Sequence[float]) -> State:
    """Σ |wᵢ|·headᵢ / Σ |wᵢ|, tensor by tensor, of equal names and shapes; the plain mean where all weights are zero."""
    sizes = [abs(weight) for weight in weights] if any(weights) else [1.0] * len(weights)
    return {
        name: torch.stack([h[name].double() * s / sum(sizes) for h, s in zip(heads, sizes, strict=True)]).sum(0).float()
        for name in heads[0]
    }


def _weighted(products: Products, weight: float) -> Products:
    """In double precision."""
    return {name: (a.double(), b.double() * weight) for name, (a, b) in products.items()}


def _as_shift(products: Products) -> Shift:
    tensors = {f"{name}.V": a for name, (a, _) in products.items()}
    return Shift({**tensors, **{f"{name}.U": b for name, (_, b) in products.items()}})
