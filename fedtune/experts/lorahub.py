"""Weights for composing adapters, found on a few examples without gradients, as in LoraHub (arXiv 2307.13269).

A (1+1) evolution strategy with the one-fifth rule takes the place of that paper's Shiwa; the objective is the paper's:
the loss plus 0.05 times the mean |w|, with every weight within ±1.5.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch

from fedtune.seeds import generator

BOUND = 1.5
L1 = 0.05
FIRST_STEP = 0.3
_GROW = 1.5
"""Of the step after a success; after a failure the fourth root of its inverse, so that one success in five holds it."""

Loss = Callable[[Sequence[float]], float]
"""Of a mixture by its weights; NaN counts as infinitely bad."""


@dataclass(frozen=True, slots=True)
class Found:
    """What a search came to."""

    weights: tuple[float, ...]
    loss: float
    """Of these weights, without the regulariser."""
    start_loss: float
    """Of uniform weights."""


def find_weights(loss: Loss, count: int, *, steps: int = 40, seed: int = 0, l1: float = L1) -> Found:
    """The best of `steps` mixtures of `count` adapters, from 1/count each; deterministic in `seed`.

    Guarantees: loss + l1·mean|w| is at most that of uniform weights, and |w| ≤ 1.5.
    """
    draw = generator(seed, "lorahub")
    best = torch.full((count,), 1 / count, dtype=torch.float64)
    best_loss = start = _finite(loss(best.tolist()))
    best_value, step = start + l1 * float(best.abs().mean()), FIRST_STEP
    for _ in range(steps):
        noise = torch.randn(count, generator=draw, dtype=torch.float64)
        tried = (best + step * noise).clamp(-BOUND, BOUND)
        value_loss = _finite(loss(tried.tolist()))
        value = value_loss + l1 * float(tried.abs().mean())
        if value < best_value:
            best, best_loss, best_value, step = tried, value_loss, value, step * _GROW
        else:
            step *= _GROW**-0.25
    return Found(tuple(best.tolist()), best_loss, start)


def _finite(value: float) -> float:
    return value if value == value else float("inf")  # noqa: PLR0124 - only NaN is not itself
