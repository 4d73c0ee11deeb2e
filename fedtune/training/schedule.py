"""Learning-rate schedules as pure functions of the step: a factor between 0 and 1 on the peak rate."""

import math
from collections.abc import Callable
from typing import Literal

Schedule = Literal["constant", "linear", "cosine"]


def rate_factor(schedule: Schedule, step: int, total: int, warmup_fraction: float = 0.0) -> float:
    """The share of the peak rate in local step `step` (from 0) of `total`; in (0, 1] for every step.

    The rate rises over the first ⌈warmup_fraction · total⌉ steps from a zero that lies before the first one, then
    follows `schedule` to a zero that lies after the last one: no step of a short round is spent at rate zero.
    """
    warmup = warmup_steps(total, warmup_fraction)
    if step < warmup:
        return (step + 1) / (warmup + 1)
    return _DECAY[schedule]((step - warmup) / (total - warmup))


def warmup_steps(total: int, warmup_fraction: float) -> int:
    """How many of `total` steps the rate rises; at least one is left at the peak."""
    return min(math.ceil(warmup_fraction * total), max(total - 1, 0))


_DECAY: dict[str, Callable[[float], float]] = {
    "constant": lambda _: 1.0,
    "linear": lambda progress: 1.0 - progress,
    "cosine": lambda progress: 0.5 * (1.0 + math.cos(math.pi * progress)),
}
