"""Where each tensor of an adapter sits in a client's flat vector: those that share a rate and a decay side by side."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch

from fedtune.recipe.training import TrainingSection
from fedtune.training.optimizer import group_parameters


@dataclass(frozen=True, slots=True)
class Group:
    """Consecutive columns that one rate moves."""

    names: tuple[str, ...]
    start: int
    end: int
    peak_rate: float
    weight_decay: float


@dataclass(frozen=True, slots=True)
class Columns:
    """The columns of every tensor; the trained ones come first, group by group."""

    places: Mapping[str, tuple[int, tuple[int, ...]]]
    """First column and shape of each tensor, by name."""
    groups: tuple[Group, ...]
    trained: int
    """How many columns are trained."""
    total: int

    @classmethod
    def of(cls, parameters: Mapping[str, torch.Tensor], trained: Sequence[str], training: TrainingSection) -> "Columns":
        """The columns of these tensors, of which those in `trained` are trained."""
        places: dict[str, tuple[int, tuple[int, ...]]] = {}
        groups: list[Group] = []
        end = 0

        def place(names: Sequence[str]) -> int:
            nonlocal end
            for name in names:
                places[name] = (end, tuple(parameters[name].shape))
                end += parameters[name].numel()
            return end

        for group in group_parameters({name: parameters[name] for name in trained}, training):
            start = end
            names = tuple(group["names"])
            groups.append(Group(names, start, place(names), group["peak_lr"], group["weight_decay"]))
        moved = end
        place(sorted(parameters.keys() - places.keys()))
        return cls(places, tuple(groups), moved, end)

    @property
    def names(self) -> tuple[str, ...]:
        """The trained tensors."""
        return tuple(name for group in self.groups for name in group.names)

    def views(self, rows_KP: torch.Tensor) -> dict[str, torch.Tensor]:
        """Every tensor of each row of a matrix with these columns, (K, *shape) by name, as views."""
        places = self.places.items()
        parts = torch.split(rows_KP, [math.prod(shape) for _, (_, shape) in places], dim=1)
        return {name: part.view(len(rows_KP), *shape) for (name, (_, shape)), part in zip(places, parts, strict=True)}

    def view(self, rows_KP: torch.Tensor, name: str) -> torch.Tensor:
        """One tensor of each row of a matrix with these columns, (K, *shape), as a view."""
        start, shape = self.places[name]
        return rows_KP[:, start : start + math.prod(shape)].view(len(rows_KP), *shape)
