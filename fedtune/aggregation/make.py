"""The aggregator of a recipe: its scheme, with what the recipe puts around it."""

from fedtune.aggregation.base import Aggregator, Frame
from fedtune.aggregation.diagnose import Diagnosed
from fedtune.aggregation.robust import RobustMean
from fedtune.aggregation.schemes import SCHEMES
from fedtune.aggregation.server_optimizer import ServerOptimised
from fedtune.recipe.aggregation import AggregationSection


def make_aggregator(section: AggregationSection, frame: Frame) -> Aggregator:
    """A fresh aggregator for one round: the scheme or the robust rule, then a server optimiser, then the diagnosis.

    A scheme that leaves tensors with the clients is not diagnosed: their products are not known here.
    """
    aggregator = _averaging(section, frame)
    if section.server_optimizer != "none":
        aggregator = ServerOptimised(aggregator, section)
    if section.diagnose and not SCHEMES[section.scheme].keeps(tuple(frame.shapes)):
        aggregator = Diagnosed(aggregator, frame)
    return aggregator


def _averaging(section: AggregationSection, frame: Frame) -> Aggregator:
    if section.rule != "mean" or section.before_rule:
        return RobustMean(section, frame)
    return SCHEMES[section.scheme].make(section, frame)
