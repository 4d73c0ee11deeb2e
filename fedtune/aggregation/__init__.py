"""Aggregation: how updates become what the next round starts from, one file a scheme."""

from fedtune.aggregation.base import Aggregator, Contribution, Frame, Global
from fedtune.aggregation.make import make_aggregator
from fedtune.aggregation.schemes import SCHEMES

__all__ = ["SCHEMES", "Aggregator", "Contribution", "Frame", "Global", "make_aggregator"]
