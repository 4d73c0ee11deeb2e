"""EF21 on the coordinator's side: a copy of what each client's delta is taken to be, and the round it is from."""

from collections.abc import Mapping
from dataclasses import replace

import torch

from fedtune.aggregation import Global
from fedtune.errors import StaleUpdate
from fedtune.state import State

_COPY, _ROUND = "ef21/", "ef21-round/"
"""In `Global.memory`: `ef21/<client>/<name>`, and `ef21-round/<client>`."""


def rounds_of(world: Global) -> dict[str, int]:
    """The round of each client's last update that counted."""
    memory = world.memory
    return {name.removeprefix(_ROUND): int(t.item()) for name, t in memory.items() if name.startswith(_ROUND)}


class Copies:
    """The copies of one round: memory for one state a client, for as long as the run lasts."""

    def __init__(self, world: Global) -> None:
        self._world = world
        self._rounds = rounds_of(world)
        self._new: State = {}

    def delta(self, client: str, sent: Mapping[str, torch.Tensor], from_round: int) -> State:
        """What the client's delta is taken to be: its copy plus what it sent, in fp32.

        Raises StaleUpdate where the client's copy is not the coordinator's.
        """
        if from_round not in (0, self._rounds.get(client, 0)):
            raise StaleUpdate(f"the update builds on a copy of round {from_round}, which is not the last that counted")
        if any(self._copy(client, name, from_round).shape not in ((), tensor.shape) for name, tensor in sent.items()):
            raise StaleUpdate("the update is of another rank than the copy that it builds on")
        return {name: (tensor.double() + self._copy(client, name, from_round)).float() for name, tensor in sent.items()}

    def accept(self, client: str, sent: Mapping[str, torch.Tensor], from_round: int, round_: int) -> None:
        """The client's update counts: its copy moves."""
        for name, tensor in sent.items():
            self._new[f"{_COPY}{client}/{name}"] = tensor.double() + self._copy(client, name, from_round)
        self._new[f"{_ROUND}{client}"] = torch.tensor([round_], dtype=torch.float64)

    def after(self, world: Global) -> Global:
        """`world` with the copies as they are now."""
        return replace(world, memory={**world.memory, **self._new}) if self._new else world

    def _copy(self, client: str, name: str, from_round: int) -> torch.Tensor:
        zero = torch.zeros((), dtype=torch.float64)
        return self._world.memory.get(f"{_COPY}{client}/{name}", zero) if from_round else zero
