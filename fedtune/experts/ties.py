"""TIES (arXiv 2306.01708): trim each task vector, elect a sign for every number, average what agrees with it.

Elementwise on the flattened LoRA factors, as ComPEFT (arXiv 2311.13171) merges them: not on ΔW.

    τ̂ᵢ = wᵢ · (the largest share of τᵢ, zero elsewhere)      γ = sgn Σ τ̂ᵢ      τ = the mean of the τ̂ᵢ with the sign γ

Where the vectors cancel to zero, γ and the result are zero.
"""

from collections.abc import Sequence

import numpy as np
import torch

from fedtune.compression.kept import kept, magnitudes
from fedtune.compression.masks import Masks, add_scaled, masks_of
from fedtune.compression.vector import layout_of
from fedtune.recipe.compression import CompressionSection
from fedtune.state import State


def trim(deltas: State, density: float) -> torch.Tensor:
    """The flattened task vector (d,), names sorted, zero but for its ⌊density·d⌋ largest numbers (at least one)."""
    layout = layout_of(deltas)
    vector = layout.flatten(deltas)
    return vector * kept(magnitudes(vector), layout, CompressionSection(density=density))


def elect_and_average(trimmed: Sequence[torch.Tensor], weights: Sequence[float]) -> torch.Tensor:
    """TIES of trimmed vectors (d,); the sum that elects is in double precision."""
    terms = [vector * torch.tensor(weight) for vector, weight in zip(trimmed, weights, strict=True)]
    elected = _sum(terms).sign()
    agreed = [torch.where(term.sign() == elected, term, 0.0) for term in terms]
    counts = _sum([(term != 0).double() for term in agreed])
    return (_sum(agreed) / counts.clamp(min=1)).float()


def elect_and_average_masks(trimmed: Sequence[tuple[Masks, float]], weights: Sequence[float]) -> torch.Tensor:
    """The same (d,), bit for bit, of ternary vectors as masks and a scale: none of them is ever unpacked whole."""
    terms = [_times(masks, scale, weight) for (masks, scale), weight in zip(trimmed, weights, strict=True)]
    total = torch.zeros(terms[0][0].count, dtype=torch.float64)
    for masks, scale in terms:
        add_scaled(total, masks, scale)
    elected = masks_of(total.sign().to(torch.int8).numpy())
    result, counts = torch.zeros_like(total), torch.zeros_like(total)
    for masks, scale in terms:
        agreed = Masks(masks.count, masks.positive & elected.positive, masks.negative & elected.negative)
        add_scaled(result, agreed, scale)
        where = agreed.positive | agreed.negative
        add_scaled(counts, Masks(masks.count, where, np.zeros_like(where)), float(scale != 0))
    return (result / counts.clamp(min=1)).float()


def unflatten(vector: torch.Tensor, like: State) -> State:
    """The tensors of a vector (d,), by the names and shapes of `like`."""
    return layout_of(like).unflatten(vector)


def _sum(terms: Sequence[torch.Tensor]) -> torch.Tensor:
    total = torch.zeros(len(terms[0]), dtype=torch.float64)
    for term in terms:
        total += term
    return total


def _times(masks: Masks, scale: float, weight: float) -> tuple[Masks, float]:
    """The magnitude rounded to fp32, as the numbers of a tensor would be; never negative."""
    magnitude = float(torch.tensor(scale) * torch.tensor(weight))
    return (masks, magnitude) if magnitude >= 0 else (Masks(masks.count, masks.negative, masks.positive), -magnitude)
