"""The geometric median by Weiszfeld's iteration, smoothed: RFA (arXiv 1912.13445)."""

import torch

from fedtune.aggregation.robust.columns import combine, middle, squared_distances

SMOOTHING = 1e-6
"""ν as a share of the rows' typical distance: an absolute ν would make a mean of it where updates are small."""
STEPS, SETTLED = 1000, 1e-12
"""Most iterations, and the change of every weight below which it stops."""


def geometric_median(matrix: torch.Tensor) -> torch.Tensor:
    """The point z with the least Σ ‖xᵢ − z‖; float64, (d,).

    Guarantees: with f < K/2 poisoned rows, whatever they hold, z is within 2(K−f)/(K−2f) · max ‖xᵢ − c‖ of any point
    c, the maximum taken over the honest rows.
    """
    return combine(median_weights(squared_distances(matrix)), matrix)


def median_weights(squared: torch.Tensor) -> torch.Tensor:
    """The weights w (K,), not negative and of sum one, with which Σ wᵢ·xᵢ is the geometric median.

    `squared`: (K, K) squared distances. Each step is wᵢ ∝ 1/max(ν, ‖xᵢ − z‖) for z = Σ wⱼ·xⱼ, from the mean on; the
    distances come from ‖xᵢ − z‖² = Σⱼ wⱼ·‖xᵢ − xⱼ‖² − ½·Σⱼₗ wⱼ·wₗ·‖xⱼ − xₗ‖², so that no step reads the rows again.
    What cancels in it is about 1e-15 times the furthest row over the typical one.
    """
    # Of the row with the closest neighbours: fewer than half of the rows cannot make it large.
    typical, row = middle(squared.sqrt()).min(dim=0)
    if not typical:  # More than half of the rows are this one.
        return torch.nn.functional.one_hot(row, len(squared)).double()
    weights = torch.full((len(squared),), 1 / len(squared), dtype=torch.float64)
    for _ in range(STEPS):
        toward = squared @ weights
        away = (toward - 0.5 * weights @ toward).clamp(min=0).sqrt()
        pull = 1 / away.clamp(min=SMOOTHING * typical.item())
        before, weights = weights, pull / pull.sum()
        if (weights - before).abs().max() <= SETTLED:
            break
    return weights
