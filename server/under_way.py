"""What asynchronous rounds leave open between two of them, and how a checkpoint keeps it."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from fedtune.state import State
from server.flights import Flight

PART = "versions"
"""Where a checkpoint has the models that clients at work were sent: `<round>/<name>`."""


@dataclass(frozen=True, slots=True)
class Version:
    """A model that clients at work were sent."""

    base: str
    """By which digest their updates will name it."""
    state: State


@dataclass(frozen=True, slots=True)
class UnderWay:
    """The clients at work on a virtual clock, and what each was sent: with these a run goes on as if never stopped."""

    flights: tuple[Flight, ...] = ()
    """In the order of sending."""
    versions: Mapping[int, Version] = field(default_factory=dict)
    """By the round that each began; those of the flights."""

    def as_json(self) -> dict[str, Any]:
        """All but the tensors."""
        bases = {str(round_): version.base for round_, version in self.versions.items()}
        return {"flights": [asdict(flight) for flight in self.flights], "bases": bases}

    def tensors(self) -> State:
        """The models' tensors."""
        return {
            f"{round_}/{name}": tensor
            for round_, version in self.versions.items()
            for name, tensor in version.state.items()
        }


def read_under_way(said: Mapping[str, Any], tensors: State) -> UnderWay:
    """What `as_json` and `tensors` said."""
    states: dict[int, State] = {int(round_): {} for round_ in said["bases"]}
    for key, tensor in tensors.items():
        round_, _, name = key.partition("/")
        states[int(round_)][name] = tensor
    versions = {round_: Version(said["bases"][str(round_)], state) for round_, state in states.items()}
    return UnderWay(tuple(Flight(**flight) for flight in said["flights"]), versions)
