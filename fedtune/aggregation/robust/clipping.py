"""Centred clipping: updates count no further than a radius from what the last round came to (arXiv 2012.10333)."""

import torch

from fedtune.aggregation.robust.columns import combine, distances_from, middle


def centred_clipping(matrix: torch.Tensor, centre: torch.Tensor, *, radius: float, steps: int) -> torch.Tensor:
    """v ← v + (1/K)·Σ (xᵢ − v)·min(1, τ/‖xᵢ − v‖), `steps` times from `centre` (d,); float64, (d,).

    τ is `radius`, or for 0 in each step the median distance of the rows from v, which fewer than half of the rows
    cannot make larger than an honest one's.

    Guarantees: a row moves the result by at most τ/K a step, whatever it holds.
    """
    point = centre.double()
    for _ in range(steps):
        distances = distances_from(point, matrix)
        reach = radius or middle(distances).item()
        # Rows at the centre have no direction, and move it nowhere.
        share = (reach / distances.clamp(min=torch.finfo(torch.float64).tiny)).clamp(max=1) / len(matrix)
        point = point * (1 - share.sum()) + combine(share, matrix)
    return point
