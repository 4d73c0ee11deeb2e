"""Krum and Multi-Krum: the updates with the closest neighbours (Blanchard et al., NeurIPS 2017)."""

import torch

from fedtune.aggregation.robust.columns import combine, squared_distances
from fedtune.errors import RunError


def krum(matrix: torch.Tensor, f: int) -> torch.Tensor:
    """The row with the least score; float64, (d,). Ties go to the first row.

    Guarantees: it is one of the rows that came. Raises RunError where K ≤ 2f + 2.
    """
    return matrix[closest(matrix, f, 1)[0]].double()


def multi_krum(matrix: torch.Tensor, f: int) -> torch.Tensor:
    """The mean of the K − f rows with the least scores; float64, (d,). Ties go to the first rows.

    Raises RunError where K ≤ 2f + 2.
    """
    rows = len(matrix)
    weights = torch.zeros(rows, dtype=torch.float64)
    weights[closest(matrix, f, rows - f)] = 1 / (rows - f)
    return combine(weights, matrix)


def closest(matrix: torch.Tensor, f: int, count: int) -> torch.Tensor:
    """The positions of the `count` rows with the least scores: long, (count,), the least first."""
    rows = len(matrix)
    if rows <= 2 * f + 2:
        raise RunError(
            f"Krum stands {f} poisoned updates among {2 * f + 3} or more, and there were {rows}: lower "
            "aggregation.attackers, wait for more replies by federation.min_replies, or take bucketing out"
        )
    return scores(squared_distances(matrix), rows - f - 2).argsort(stable=True)[:count]


def scores(squared: torch.Tensor, neighbours: int) -> torch.Tensor:
    """Σ ‖xᵢ − xⱼ‖² over the `neighbours` rows nearest to row i, itself left out; float64, (K,).

    `squared`: (K, K) squared distances. Krum takes K − f − 2 neighbours.
    """
    others = squared.clone().fill_diagonal_(torch.inf)
    return others.sort(dim=1).values[:, :neighbours].sum(dim=1)
