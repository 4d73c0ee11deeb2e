"""Noise on the activations that leave a client: each row clipped, and blurred by numbers that nobody can repeat."""

import torch

from fedtune.errors import PrivacyError
from fedtune.privacy.clipping import ROOM, exact
from fedtune.privacy.noise import NoiseSource
from fedtune.recipe.split import SplitSection


def blurred(hidden: torch.Tensor, section: SplitSection, source: NoiseSource) -> torch.Tensor:
    """(B, T, D) fp32 with normal noise of `noise_multiplier`·`clip` on every number; unchanged where there is none.

    Guarantees: before the noise all numbers of one row together, padding too, have a norm of at most `clip`, roundings
    included; what a row comes to depends on that row alone; a row with NaN or infinity counts as zeros. The sum is
    taken in double precision and rounded once. Raises PrivacyError where a gradient of `hidden` is wanted: what is
    trained before the cut lies in every row, and `fedtune.split.release` promises nothing for such rows.
    """
    if not section.noise_multiplier:
        return hidden
    if hidden.requires_grad:
        raise PrivacyError(
            "split.noise_multiplier hides rows behind a frozen head, and something before the cut is trained; set "
            "split.train_head = false and split.prompt_tokens = 0, or noise_multiplier = 0"
        )
    clipped = _clipped(exact(hidden), section.clip * ROOM)
    noise = source.normal(hidden.shape) * (section.noise_multiplier * section.clip)
    return (clipped + noise.to(clipped.device)).float().to(hidden.device)


def _clipped(rows: torch.Tensor, bound: float) -> torch.Tensor:
    """(B, T, D) float64: each row scaled down to a norm of `bound` where it is longer."""
    norms = torch.linalg.vector_norm(rows.flatten(1), dim=1).reshape(-1, 1, 1)
    # A factor of zero is not enough: zero times NaN is NaN.
    rows = torch.where(norms.isfinite(), rows, 0.0)
    scaled: torch.Tensor = rows * (bound / norms.nan_to_num(nan=bound, posinf=bound).clamp(min=bound))
    return scaled
