"""The contract of an aggregation scheme: updates go in one at a time, what the federation knows next comes out."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import ClassVar

from fedtune.adapters.base import Products
from fedtune.adapters.shift import NO_SHIFT, Shift
from fedtune.adapters.slots import Axes, Slots
from fedtune.recipe.adapter import AdapterForm
from fedtune.state import Shapes, State, digest


@dataclass(frozen=True, slots=True)
class Global:
    """Everything that the next round starts from, on the coordinator's side."""

    state: State
    """The adapter's tensors."""
    shift: Shift = NO_SHIFT
    """What has been added to the base weights."""
    control: State = field(default_factory=dict)
    """SCAFFOLD's control variate c, by the state's names; sent with every task."""
    memory: State = field(default_factory=dict)
    """What the coordinator alone remembers (a server optimiser's moments)."""
    clients: int = 1
    """How many clients there are, as far as the coordinator knows; SCAFFOLD's N."""

    def digest(self) -> str:
        """Equal digests mean that the next round starts from the same numbers; `digest(state)` where that is all."""
        parts = {f"control/{name}": tensor for name, tensor in self.control.items()}
        parts |= {f"memory/{name}": tensor for name, tensor in self.memory.items()}
        parts |= {f"shift/{name}": tensor for name, tensor in self.shift.tensors.items()}
        return digest({**self.state, **parts})


@dataclass(frozen=True, slots=True)
class Contribution:
    """One client's validated update."""

    client: str
    delta: State
    """Trained minus received, for the names that the scheme uploads, in the shapes of the client's slots: fp32."""
    weight: float
    """More than 0."""
    slots: Slots = None
    """The slots that the client trained; None for all."""
    control: State = field(default_factory=dict)
    """The change of the client's control variate (SCAFFOLD)."""


@dataclass(frozen=True, slots=True)
class Frame:
    """What a scheme knows of the adapter that it averages."""

    form: AdapterForm
    shapes: Shapes
    """Of the whole global state."""
    axes: Axes
    slots: int
    """How many there are: LoRA's and square's rank, the heads of ravan; 0 where ranks cannot differ."""
    modules: Mapping[str, tuple[int, int]]
    """(out, in) of the adapted weights."""
    scale: float
    """α/r: LoRA's ΔW is scale·B·A whatever rank a client has."""
    seed: int
    """Of the adapter's own draws."""
    products: Callable[[State], Products]
    """What a whole state adds to the base weights; raises AdapterError where the adapter adds no such product."""


class Aggregator(ABC):
    """One round of one scheme.

    Guarantees: the result does not depend on the order of `add`; what `add` refuses has changed nothing; where
    `linear`, memory does not grow with the number of updates.
    """

    exact_for: ClassVar[frozenset[AdapterForm]]
    """For which adapters is the new global product the weighted mean of the clients' products, to rounding?"""
    linear: ClassVar[bool]
    """Does a sum of the updates suffice? Then it streams, and secure aggregation can carry it."""
    heterogeneous_for: ClassVar[frozenset[AdapterForm]]
    """For which adapters may clients hold different ranks?"""

    @abstractmethod
    def begin(self, world: Global, round_: int) -> None:
        """Start a round from what the federation knows; nothing of it is written to."""

    @abstractmethod
    def add(self, contribution: Contribution) -> None:
        """Take in one client's validated update; raises WeightOutOfRange, and adds nothing, where it cannot be held."""

    @abstractmethod
    def finish(self) -> Global:
        """What the federation knows next; raises RunError where nothing was added."""
