"""The robust rules once more, as slowly as their papers write them: NumPy and loops, float64."""

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize

Floats = NDArray[np.float64]


def trimmed_mean(rows: Floats, f: int) -> Floats:
    return np.array([np.mean(sorted(column)[f : len(column) - f]) for column in rows.T])


def sum_of_distances(point: Floats, rows: Floats) -> float:
    return float(sum(np.sqrt(((row - point) ** 2).sum()) for row in rows))


def geometric_median(rows: Floats) -> Floats:
    """By a general minimiser from several starts; the objective is convex."""
    starts = [np.median(rows, axis=0), *rows]
    found = [minimize(sum_of_distances, s, (rows,), method="Nelder-Mead", options=PATIENT).x for s in starts]
    return min([*found, *rows], key=lambda point: sum_of_distances(point, rows))


PATIENT = {"xatol": 1e-10, "fatol": 1e-13, "maxiter": 20_000, "maxfev": 20_000}


def krum_scores(rows: Floats, neighbours: int) -> list[float]:
    scores = []
    for i, row in enumerate(rows):
        others = sorted(float(((row - other) ** 2).sum()) for j, other in enumerate(rows) if j != i)
        scores.append(sum(others[:neighbours]))
    return scores


def krum(rows: Floats, f: int) -> Floats:
    return rows[int(np.argmin(krum_scores(rows, len(rows) - f - 2)))]


def multi_krum(rows: Floats, f: int) -> Floats:
    order = np.argsort(krum_scores(rows, len(rows) - f - 2), kind="stable")
    return rows[order[: len(rows) - f]].mean(axis=0)


def centred_clipping(rows: Floats, centre: Floats, radius: float, steps: int) -> Floats:
    point = centre.copy()
    for _ in range(steps):
        lengths = [float(np.linalg.norm(row - point)) for row in rows]
        reach = radius or float(np.median(lengths))
        clipped = [(row - point) * min(1.0, reach / (length or 1)) for row, length in zip(rows, lengths, strict=True)]
        point = point + np.mean(clipped, axis=0)
    return point


def mix_neighbours(rows: Floats, f: int) -> Floats:
    mixed = []
    for row in rows:
        near = sorted(range(len(rows)), key=lambda j: float(((row - rows[j]) ** 2).sum()))
        mixed.append(rows[near[: len(rows) - f]].mean(axis=0))
    return np.array(mixed)
