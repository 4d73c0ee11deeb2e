"""Aggregation: how updates become the next global state, one file a scheme."""

from fedtune.aggregation.base import Aggregator
from fedtune.aggregation.mean import Mean
from fedtune.recipe.aggregation import AggregationSection

__all__ = ["AGGREGATORS", "Aggregator", "Mean", "make_aggregator"]

AGGREGATORS: dict[str, type[Aggregator]] = {"mean": Mean}
"""Every scheme by its name in a recipe."""


def make_aggregator(section: AggregationSection) -> Aggregator:
    """A fresh aggregator of the recipe's scheme."""
    return AGGREGATORS[section.scheme]()
