"""Robust rules: what stands in the place of the mean when some of a round's updates may be poison.

Each rule is a pure function of a matrix (K, d), a row a client, and of f, how many rows may be poisoned. Bounds are on
what f clients can do, not a promise of accuracy: honest clients whose data differ look like attackers to every rule.
"""

from fedtune.aggregation.robust.aggregator import RobustMean

__all__ = ["RobustMean"]
