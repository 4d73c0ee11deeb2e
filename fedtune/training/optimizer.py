"""The optimiser of one client's local steps, started anew each round, as in FedAvg."""

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import nn
from torch.optim import SGD, AdamW, Optimizer

from fedtune.recipe.training import TrainingSection

Group = dict[str, Any]


def make_optimizer(parameters: Mapping[str, nn.Parameter], training: TrainingSection) -> Optimizer:
    """An optimiser over an adapter's named parameters, with nothing in its memory.

    Names that start with `head.` take `head_lr` where it is set. Biases and norms (one dimension) are not decayed.
    """
    return _MAKE[training.optimizer](group_parameters(parameters, training), training)


def group_parameters(parameters: Mapping[str, torch.Tensor], training: TrainingSection) -> list[Group]:
    """The parameters by peak rate and decay, sorted by name within each; groups without parameters are left out."""
    groups: dict[tuple[float, float], list[str]] = {}
    for name in sorted(parameters):
        decay = training.weight_decay if parameters[name].ndim > 1 else 0.0
        groups.setdefault((_peak_rate(name, training), decay), []).append(name)
    return [
        {"params": [parameters[n] for n in names], "names": names, "lr": peak, "peak_lr": peak, "weight_decay": decay}
        for (peak, decay), names in groups.items()
    ]


def set_rate(optimizer: Optimizer, factor: float) -> None:
    """Put every group at `factor` times its peak rate."""
    for group in optimizer.param_groups:
        group["lr"] = factor * group["peak_lr"]


class RateSum:
    """The sum of each tensor's learning rates over the steps so far."""

    def __init__(self, optimizer: Optimizer) -> None:
        self._groups = optimizer.param_groups
        self._sums = [0.0] * len(self._groups)

    def add(self) -> None:
        """Count a step at the rates that are set."""
        for position, group in enumerate(self._groups):
            self._sums[position] += group["lr"]

    def by_name(self) -> dict[str, float]:
        """The sums, by the parameters' names."""
        return {name: total for group, total in zip(self._groups, self._sums, strict=True) for name in group["names"]}


def _peak_rate(name: str, training: TrainingSection) -> float:
    if training.head_lr is not None and name.startswith("head."):
        return training.head_lr
    return training.lr


# Fused: an adapter is hundreds of small tensors, and one call for all of them costs a fifth of one call each.
_MAKE: dict[str, Callable[[list[Group], TrainingSection], Optimizer]] = {
    "adamw": lambda groups, training: AdamW(groups, lr=training.lr, fused=True),
    "sgd": lambda groups, training: SGD(groups, lr=training.lr, momentum=training.momentum, fused=True),
}
