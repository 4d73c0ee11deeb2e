"""What a cohort is trained with, and how its clients' tensors get into its stacks and out of them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch

from fedtune.cohort.base import Pass
from fedtune.cohort.budget import token_budget
from fedtune.cohort.columns import Columns
from fedtune.cohort.dropping import dropouts, drops
from fedtune.cohort.lane import Lane
from fedtune.cohort.layers import CohortModule
from fedtune.cohort.passes import pass_for
from fedtune.cohort.place import cohort_layers
from fedtune.cohort.room import Room
from fedtune.cohort.stacks import Stacks
from fedtune.state import State
from fedtune.training.base import Assignment
from fedtune.training.resident import Resident
from fedtune.training.trained import is_trained

MOST_CLIENTS = 32
"""Clients whose tensors are in memory at once."""
MOST_BYTES = 2**30
"""What those tensors, their gradients and their optimisers' memories may take."""


@dataclass(frozen=True, slots=True)
class Works:
    """A resident, its cohort layers, and the passes through them."""

    resident: Resident
    lane: Lane
    layers: Mapping[str, CohortModule]
    forward: Pass
    most_tokens: int
    """How many tokens a pass is filled up to."""
    drops: bool
    """Is anything dropped at random in training?"""

    @classmethod
    def of(cls, resident: Resident, most_tokens: int | None, room: Room) -> "Works":
        """The works of a resident that is fit for shared passes; raises AdapterError where its adapter is not."""
        lane = Lane()
        layers, dropped = cohort_layers(resident.attached, lane), drops(resident)
        if dropped:
            layers |= dropouts(resident.attached.model, lane, tuple(layers))
        most = most_tokens or token_budget(resident)
        return cls(resident, lane, layers, pass_for(resident, lane, room), most, dropped)

    def stack(self, lot: Sequence[Assignment]) -> Stacks:
        """The states of clients that train the same tensors; raises AdapterError where one does not fit."""
        attached, parameters = self.resident.attached, self.resident.attached.parameters()
        trained = [name for name in parameters if is_trained(name, lot[0])]
        columns = Columns.of(parameters, trained, self.resident.recipe.training)
        stacks = Stacks(columns, len(lot), like=next(iter(parameters.values())))
        for row, assignment in enumerate(lot):
            if row and _same(assignment.state, lot[row - 1].state):
                stacks.repeat(row)
                continue
            attached.load(assignment.state)
            stacks.put(row, parameters)
        return stacks

    def read(self, stacks: Stacks, row: int) -> State:
        """A client's tensors as its adapter would give them."""
        attached, values = self.resident.attached, stacks.of(row)
        parameters = attached.parameters()
        with torch.no_grad():
            torch._foreach_copy_(list(parameters.values()), [values[name] for name in parameters])
        return attached.read()


def _same(one: State, other: State) -> bool:
    """Are these the very same tensors, as the global ones are for all clients?"""
    return one.keys() == other.keys() and all(tensor is other[name] for name, tensor in one.items())


def most_clients(resident: Resident) -> int:
    """How many clients' tensors are in memory at once."""
    return max(1, min(MOST_CLIENTS, most_copies(resident)))


def most_copies(resident: Resident) -> int:
    """How many copies of an adapter, each with three more of what comes with it, there is memory for."""
    numbers = sum(parameter.numel() for parameter in resident.attached.parameters().values())
    return max(1, MOST_BYTES // (16 * max(numbers, 1)))
