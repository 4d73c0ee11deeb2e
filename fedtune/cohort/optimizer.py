"""The optimisers of several clients at once, started anew: each client's rows are moved as torch's own move tensors."""

from collections import defaultdict
from collections.abc import Callable, Mapping
from typing import Protocol

import torch
from torch.optim.adamw import adamw
from torch.optim.sgd import sgd

from fedtune.cohort.columns import Group
from fedtune.cohort.stacks import Stacks
from fedtune.recipe.training import TrainingSection

BETA1, BETA2, EPSILON = 0.9, 0.999, 1e-8
"""What torch's AdamW has where nothing is said."""
CLIP_EPSILON = 1e-6
"""What torch's `clip_grad_norm_` adds to a norm before it divides by it."""


class CohortOptimizer(Protocol):
    """Moves clients' rows along their gradients."""

    def step(self, factors: Mapping[int, float]) -> None:
        """One step of each client in `factors`, at that share of its groups' peak rates."""
        ...


class CohortAdamW:
    """AdamW (arXiv 1711.05101): every client counts its own steps."""

    def __init__(self, stacks: Stacks, _training: TrainingSection) -> None:
        groups = stacks.columns.groups
        kept = [torch.zeros_like(stacks.gradients_KQ) for _ in range(2)]
        self._groups = groups
        self._rows = [
            [_rows(matrix, group) for matrix in (stacks.values_KP, stacks.gradients_KQ, *kept)] for group in groups
        ]
        device = stacks.values_KP.device
        # On the device: the fused kernel reads the counts there.
        self._steps = [list(torch.zeros(len(stacks.values_KP), device=device).unbind(0)) for _ in groups]

    def step(self, factors: Mapping[int, float]) -> None:
        """One step of each client, all of one rate in one call."""
        for factor, clients in _by_factor(factors).items():
            for group, rows, steps in zip(self._groups, self._rows, self._steps, strict=True):
                values, gradients, means, squares = ([kind[client] for client in clients] for kind in rows)
                adamw(
                    values,
                    gradients,
                    means,
                    squares,
                    [],
                    [steps[client] for client in clients],
                    fused=True,
                    amsgrad=False,
                    beta1=BETA1,
                    beta2=BETA2,
                    lr=factor * group.peak_rate,
                    weight_decay=group.weight_decay,
                    eps=EPSILON,
                    maximize=False,
                )


class CohortSGD:
    """Gradient descent with momentum and L2."""

    def __init__(self, stacks: Stacks, training: TrainingSection) -> None:
        self._groups = stacks.columns.groups
        self._momentum = training.momentum
        kept = [torch.zeros_like(stacks.gradients_KQ)] if training.momentum else []
        self._rows = [
            [_rows(matrix, group) for matrix in (stacks.values_KP, stacks.gradients_KQ, *kept)]
            for group in self._groups
        ]

    def step(self, factors: Mapping[int, float]) -> None:
        """One step of each client, all of one rate in one call."""
        for factor, clients in _by_factor(factors).items():
            for group, rows in zip(self._groups, self._rows, strict=True):
                values, gradients, *kept = ([kind[client] for client in clients] for kind in rows)
                sgd(
                    values,
                    gradients,
                    [*kept[0]] if kept else [None] * len(clients),
                    fused=True,
                    weight_decay=group.weight_decay,
                    momentum=self._momentum,
                    lr=factor * group.peak_rate,
                    dampening=0.0,
                    nesterov=False,
                    maximize=False,
                )


def clip_rows(gradients_KQ: torch.Tensor, most: float) -> None:
    """Scale each row down to a norm of `most`, as `clip_grad_norm_` does one client's gradients."""
    norms_K1 = torch.linalg.vector_norm(gradients_KQ, dim=1, keepdim=True)
    gradients_KQ.mul_((most / (norms_K1 + CLIP_EPSILON)).clamp_(max=1.0))


def _rows(matrix: torch.Tensor, group: Group) -> tuple[torch.Tensor, ...]:
    return matrix[:, group.start : group.end].unbind(0)


def _by_factor(factors: Mapping[int, float]) -> dict[float, list[int]]:
    clients: dict[float, list[int]] = defaultdict(list)
    for client, factor in factors.items():
        clients[factor].append(client)
    return clients


COHORT_OPTIMIZERS: Mapping[str, Callable[[Stacks, TrainingSection], CohortOptimizer]] = {
    "adamw": CohortAdamW,
    "sgd": CohortSGD,
}
"""By `training.optimizer`."""
