"""An aggregator around another one: what it does not say otherwise is as the inner one has it."""

from fedtune.aggregation.base import Aggregator, Contribution, Global
from fedtune.recipe.adapter import AdapterForm


class Around(Aggregator):
    """Hands a round on to `inner`; its flags are the inner one's, so they are the instance's and not the class's."""

    def __init__(self, inner: Aggregator) -> None:
        self.inner = inner
        self.world = Global({})

    @property
    def exact_for(self) -> frozenset[AdapterForm]:  # type: ignore[override]
        """As of the inner aggregator."""
        return self.inner.exact_for

    @property
    def linear(self) -> bool:  # type: ignore[override]
        """As of the inner aggregator."""
        return self.inner.linear

    @property
    def heterogeneous_for(self) -> frozenset[AdapterForm]:  # type: ignore[override]
        """As of the inner aggregator."""
        return self.inner.heterogeneous_for

    def begin(self, world: Global, round_: int) -> None:
        """Start a round from what the federation knows."""
        self.world = world
        self.inner.begin(world, round_)

    def add(self, contribution: Contribution) -> None:
        """Take in one client's validated update, as the inner aggregator does."""
        self.inner.add(contribution)

    def finish(self) -> Global:
        """What the inner aggregator makes of the round."""
        return self.inner.finish()
