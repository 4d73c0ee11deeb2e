"""Noise on the activations that leave a client: each row clipped, and blurred by numbers that nobody can repeat."""

import torch

from fedtune.privacy.noise import NoiseSource
from fedtune.recipe.split import SplitSection


def blurred(hidden: torch.Tensor, section: SplitSection, source: NoiseSource) -> torch.Tensor:
    """(B, T, D) with each row's norm clipped to `clip` and normal noise of `noise_multiplier`·`clip` on every number.

    Gradients pass the clipping. It promises nothing: neither how often a row leaves nor the gradients that follow it
    are accounted for. Unchanged where the recipe has no noise.
    """
    if not section.noise_multiplier:
        return hidden
    norms = hidden.flatten(1).norm(dim=1).clamp(min=torch.finfo(hidden.dtype).tiny)
    clipped = hidden * (section.clip / norms).clamp(max=1.0).reshape(-1, 1, 1)
    noise = source.normal(hidden.shape) * (section.noise_multiplier * section.clip)
    made: torch.Tensor = clipped + noise.to(hidden)
    return made
