"""What a scheme is beside its arithmetic: what clients train, send and keep, and what it costs and promises."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from fedtune.aggregation.base import Aggregator, Frame
from fedtune.recipe.adapter import AdapterForm
from fedtune.recipe.aggregation import AggregationSection
from fedtune.state import State

Names = tuple[str, ...]
EVERY_FORM: frozenset[AdapterForm] = frozenset({"lora", "ffa", "square", "ravan", "peft", "prompt", "full"})
LORA: frozenset[AdapterForm] = frozenset({"lora"})


@dataclass(frozen=True, slots=True)
class Layout:
    """What the traffic of a round depends on."""

    form: AdapterForm
    modules: Sequence[tuple[int, int]]
    """(out, in) of each adapted weight."""
    rank: int
    """The adapter's."""
    own_rank: int
    """The client's (slots, of ravan: heads)."""
    ranks: Sequence[int]
    """Of all clients that trained in the round before."""
    head: int = 0
    """Numbers in the task head."""
    heads: int = 0
    """Of ravan."""
    residual: str = "factored"
    """How FedEx-LoRA sends its residual."""
    residual_rank: int = 0
    """Of a truncated residual."""
    state_numbers: int = 0
    """Numbers in the whole adapter state, the head left out, where `form` has no formula (`peft`, `prompt`, `full`)."""


@dataclass(frozen=True, slots=True)
class Traffic:
    """Numbers (of four bytes in fp32) that a client sends and is sent in a round."""

    up: int
    down: int


def train_all(names: Names, _round: int) -> Names:
    """Clients train and send every tensor."""
    return names


def keep_nothing(_names: Names) -> Names:
    """Nothing stays on the client."""
    return ()


def as_trained(_start: State, trained: State, _frame: Frame, _section: AggregationSection) -> State:
    """What was trained is what is sent."""
    return trained


@dataclass(frozen=True, slots=True)
class Scheme:
    """One way to federate an adapter."""

    title: str
    """One line with the source."""
    make: Callable[[AggregationSection, Frame], Aggregator]
    """A fresh aggregator for one round."""
    aggregator: type[Aggregator]
    """The class that `make` gives, whose flags are the scheme's."""
    forms: frozenset[AdapterForm]
    """The adapters that it can average."""
    traffic: Callable[[Layout], Traffic]
    """Numbers up and down, per client and round."""
    formula: Mapping[str, str]
    """The same in words, `up` and `down`, per adapted weight of m outputs and n inputs."""
    growth: str = "none"
    """How the coordinator's memory grows with the number of updates in a round."""
    trains: Callable[[Names, int], Names] = train_all
    """Of the adapter's tensor names, those that clients train in a round; what they train and share they send."""
    keeps: Callable[[Names], Names] = keep_nothing
    """Of the adapter's tensor names, those that never leave a client and stay on its disk."""
    finish_client: Callable[[State, State, Frame, AggregationSection], State] = as_trained
    """The client's last step: (start, trained, frame, section) to what it sends; full shapes, trained names."""
    note: str = ""
    """What a user has to know; one sentence."""

    @property
    def exact_for(self) -> frozenset[AdapterForm]:
        """The adapters of which the new global product is the weighted mean of the clients' products."""
        return self.aggregator.exact_for & self.forms

    @property
    def heterogeneous_for(self) -> frozenset[AdapterForm]:
        """The adapters of which clients may hold different ranks."""
        return self.aggregator.heterogeneous_for & self.forms
