"""The contract of the local step: a cohort of clients in, trained states out. A real client is a cohort of one."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from fedtune.adapters.shift import NO_SHIFT, Shift
from fedtune.adapters.slots import Slots
from fedtune.data.base import Rows
from fedtune.split.base import Share
from fedtune.state import State


@dataclass(frozen=True, slots=True)
class Assignment:
    """One client's share of a round."""

    client: str
    round: int
    state: State
    """The global state to start from; never written to."""
    rows: Rows
    seed: int
    """From `derive_seed(run seed, "train", round_=round, client=client)`: data order and dropout come from it."""
    trained: tuple[str, ...] | None = None
    """The names of the tensors to train; None for all. The others are loaded and stay as they are."""
    slots: Slots = None
    """The slots to train (`fedtune.adapters.slots`); `state` is zero outside of them, and stays so."""
    shift: Shift = NO_SHIFT
    """What has been added to the base weights."""
    correction: State = field(default_factory=dict)
    """SCAFFOLD's c − cₖ: added to every step's gradient, by name (arXiv 1910.06378, algorithm 1)."""
    run: str = ""
    """The run's id: a split model's coordinator asks for it."""


@dataclass(frozen=True, slots=True)
class LocalResult:
    """What one client made of its share."""

    client: str
    state: State
    """The trained tensors, a copy of its own."""
    examples: int
    """Rows that the client holds: its weight in the mean."""
    rates: dict[str, float] = field(default_factory=dict)
    """The sum of each trained tensor's learning rates over the local steps, by name: SCAFFOLD divides by it. Zero where
    no step was taken."""
    metrics: dict[str, float] = field(default_factory=dict)
    """`loss`: mean training loss over the local steps, absent without steps; `steps`; `seconds`: wall-clock time, of
    clients that were trained together an even share."""


@dataclass(frozen=True, slots=True)
class Score:
    """An evaluation: sums over rows, so that scores of several clients add up."""

    examples: int
    """Rows (classification) or answer tokens (`causal-lm`)."""
    loss_sum: float
    correct: float
    """Rows (or answer tokens) predicted right."""

    @property
    def loss(self) -> float:
        """Mean loss; NaN without examples."""
        return self.loss_sum / self.examples if self.examples else float("nan")

    @property
    def accuracy(self) -> float:
        """Share predicted right; NaN without examples."""
        return self.correct / self.examples if self.examples else float("nan")


NOBODY = Share("", 0, "")
"""Whose the coordinator's own rows are."""


class LocalStep(Protocol):
    """Trains and evaluates clients against one resident base model.

    Guarantees: a client's result depends on its assignment alone, not on its neighbours in the cohort, their
    number or their order.
    """

    def train(self, cohort: Sequence[Assignment]) -> Iterator[LocalResult]:
        """Yield one result a client, in the cohort's order.

        Raises TrainingError and its like at the client that failed; the iterator goes on with the next one after that.
        """
        ...

    def evaluate(self, state: State, rows: Rows, shift: Shift = NO_SHIFT, share: Share = NOBODY, /) -> Score:
        """Score a whole state on rows, on base weights that `shift` was added to; `share` says whose rows they are."""
        ...
