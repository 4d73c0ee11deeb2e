"""What asynchronous rounds leave open between two of them, and how a checkpoint keeps it."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from fedtune.state import State
from server.flights import Flight

PART = "models"
"""Where a checkpoint has the models that clients at work were sent: `<round>/<name>`."""


@dataclass(frozen=True, slots=True)
class UnderWay:
    """The clients at work on a virtual clock, and what each was sent: with these a run goes on as if never stopped."""

    flights: tuple[Flight, ...] = ()
    """In the order of sending."""
    models: Mapping[int, State] = field(default_factory=dict)
    """The flights' models, by the round that each began."""

    def as_json(self) -> list[dict[str, Any]]:
        """The flights."""
        return [asdict(flight) for flight in self.flights]

    def tensors(self) -> State:
        """The models' tensors."""
        return {f"{round_}/{name}": tensor for round_, state in self.models.items() for name, tensor in state.items()}


def read_under_way(flights: Sequence[Mapping[str, Any]], tensors: State) -> UnderWay:
    """What `as_json` and `tensors` said."""
    models: dict[int, State] = {}
    for key, tensor in tensors.items():
        round_, _, name = key.partition("/")
        models.setdefault(int(round_), {})[name] = tensor
    return UnderWay(tuple(Flight(**flight) for flight in flights), models)
