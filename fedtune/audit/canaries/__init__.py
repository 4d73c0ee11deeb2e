"""Canaries: rows and clients that are put in by secret coins, and the attacks that try to tell which."""

from fedtune.audit.canaries.coins import canary_names, toss
from fedtune.audit.canaries.directions import direction
from fedtune.audit.canaries.rows import CanaryRows, choose_rows

__all__ = ["CanaryRows", "canary_names", "choose_rows", "direction", "toss"]
