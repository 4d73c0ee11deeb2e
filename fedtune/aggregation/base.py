"""The contract of an aggregation scheme: updates go in one at a time, a new global state comes out."""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import ClassVar

import torch

from fedtune.recipe.adapter import AdapterKind
from fedtune.state import State


class Aggregator(ABC):
    """One round of one scheme.

    Guarantees: the result does not depend on the order of `add`; where `linear`, memory does not grow with the
    number of updates.
    """

    exact_for: ClassVar[frozenset[AdapterKind]]
    """For which adapters is the new global product the weighted mean of the clients' products, to rounding?"""
    linear: ClassVar[bool]
    """Does a sum of the updates suffice? Then it streams, and secure aggregation can carry it."""
    heterogeneous: ClassVar[bool]
    """May clients hold adapters of different ranks?"""

    @abstractmethod
    def begin(self, state: State) -> None:
        """Start a round from a global state."""

    @abstractmethod
    def add(self, delta: Mapping[str, torch.Tensor], weight: float) -> None:
        """Take in one client's validated delta (its state minus the global one) with a weight > 0."""

    @abstractmethod
    def finish(self) -> State:
        """The next global state; raises RunError where nothing was added."""
