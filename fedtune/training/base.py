"""The contract of the local step: a cohort of clients in, trained states out. A real client is a cohort of one."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from fedtune.data.base import Rows
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


@dataclass(frozen=True, slots=True)
class LocalResult:
    """What one client made of its share."""

    client: str
    state: State
    """The trained tensors, a copy of its own."""
    examples: int
    """Rows that the client holds: its weight in the mean."""
    metrics: dict[str, float] = field(default_factory=dict)
    """`loss`: mean training loss over the local steps, absent without steps; `steps`; `seconds`: wall-clock time."""


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


class LocalStep(Protocol):
    """Trains and evaluates clients against one resident base model.

    Guarantees: a client's result depends on its assignment alone, not on its neighbours in the cohort, their
    number or their order.
    """

    def train(self, cohort: Sequence[Assignment]) -> Iterator[LocalResult]:
        """Yield one result a client, in the cohort's order.

        Raises TrainingError and its like at the client that failed, which ends the iterator: hand in the rest again.
        """
        ...

    def evaluate(self, state: State, rows: Rows) -> Score:
        """Score a state on rows."""
        ...
