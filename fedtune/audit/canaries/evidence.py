"""Attacks: what a canary's loss, or what was released along its gradient or direction, says about its coin.

Every score is post-processing of what a mechanism released, so a mechanism's guarantee holds for it, however it is
computed; a better one only makes bounds tighter.
"""

import math
from collections.abc import Mapping, Sequence
from itertools import pairwise

import numpy as np
import torch

from fedtune.adapters.shift import NO_SHIFT, Shift
from fedtune.audit.canaries.directions import inner, norm
from fedtune.data.base import Batch
from fedtune.state import State, subtract
from fedtune.training.mode import in_mode
from fedtune.training.private_loss import example_losses
from fedtune.training.resident import Resident


def canary_losses(
    resident: Resident, state: State, canaries: Mapping[str, Batch], *, shift: Shift = NO_SHIFT
) -> dict[str, float]:
    """The loss of each canary (a batch of one) under a state: the black-box attack looks at nothing else."""
    with resident.lock:
        resident.attached.shift_to(shift)
        resident.attached.load(state)
        with in_mode(resident.attached.model, training=False), torch.inference_mode():
            return {name: float(example_losses(resident, batch)[0]) for name, batch in canaries.items()}


def gradient_of(resident: Resident, state: State, batch: Batch) -> State:
    """The gradient of one row's loss (a batch of one) at a state, by autograd alone: fp32, on the CPU."""
    with resident.lock:
        resident.attached.shift_to(NO_SHIFT)
        resident.attached.load(state)
        parameters = resident.attached.parameters()
        with in_mode(resident.attached.model, training=False):
            loss = example_losses(resident, batch)[0]
            found = torch.autograd.grad(loss, list(parameters.values()), allow_unused=True)
    return {
        name: torch.zeros(parameter.shape) if part is None else part.float().cpu()
        for (name, parameter), part in zip(parameters.items(), found, strict=True)
    }


def along_gradient(update: State, gradient: State) -> float:
    """How far an update goes against a canary's gradient, per unit of its length: where training on it would lead."""
    fitting = {n: t for n, t in update.items() if n in gradient and t.shape == gradient[n].shape}
    length = norm(gradient)
    return -inner(fitting, gradient) / length if length else 0.0


def along_direction(
    states: Sequence[tuple[int, State]], direction: State, *, unit: float, noise_multiplier: float, rate: float
) -> float:
    """The evidence of all rounds that a canary client was in: a log likelihood ratio, summed over the rounds.

    `states` are (round, state at its start), the last one included; `unit` is how far one canary moves a state along
    its direction. A round's step along it is, over `unit`, one with chance `rate` where the client is in and zero
    otherwise, under noise of standard deviation `noise_multiplier`: the test that is best against exactly that.
    """
    total = 0.0
    for (first, before), (last, after) in pairwise(states):
        x = inner(subtract(after, before), direction) / unit
        total += _ratio(x, noise_multiplier * math.sqrt(last - first), rate)
    return total


def cosine(displacement: State, direction: State) -> float:
    """The cosine of a direction with all that training moved; 0.0 where nothing moved."""
    length = norm(displacement)
    return max(-1.0, min(1.0, inner(displacement, direction) / (length * norm(direction)))) if length else 0.0


def _ratio(x: float, noise_multiplier: float, rate: float) -> float:
    inserted = math.log(rate) + (x - 0.5) / noise_multiplier**2
    return float(np.logaddexp(math.log1p(-rate), inserted)) if rate < 1 else inserted
