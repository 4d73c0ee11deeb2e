"""Clients whose rows share passes: is a sum that of its own rows, and does a neighbour's row stay out of it?"""

from collections.abc import Sequence

from fedtune.audit.checks.finding import Finding
from fedtune.privacy.plan import Plan

TOLERANCE = 0.01
"""Of the clip: far above the rounding of products, and too little to matter to a noise multiplier."""


def check_sums(distances: Sequence[float], plan: Plan) -> Finding:
    """The sums of shared passes before their noise, against clipped gradients of which each was taken alone.

    `distances`: the norm of the difference, a client and step each.
    """
    return _within("shared sums", "largest distance from the sum of rows that were taken alone", distances, plan)


def check_neighbours(moved: Sequence[float], plan: Plan) -> Finding:
    """What one row more at a client does to the sums of its neighbours, as norms: nothing beyond rounding."""
    return _within("neighbours", "most that one client's row moved another client's sum", moved, plan)


def _within(name: str, what: str, seen: Sequence[float], plan: Plan) -> Finding:
    largest = max(seen, default=0.0)
    holds = largest <= TOLERANCE * plan.clip  # a number that is none is not
    return Finding(name, holds, f"{what}: {largest:.2g} where the plan clips to {plan.clip:.4g}")
