"""The aggregator of a recipe: its scheme, with what the recipe puts around it."""

from fedtune.aggregation.base import Aggregator, Frame
from fedtune.aggregation.schemes import SCHEMES
from fedtune.recipe.aggregation import AggregationSection


def make_aggregator(section: AggregationSection, frame: Frame) -> Aggregator:
    """A fresh aggregator for one round of the recipe's scheme."""
    return SCHEMES[section.scheme].make(section, frame)
