"""Is what one unit puts into a sum within the clip?"""

from collections.abc import Sequence

from fedtune.audit.checks.finding import Finding
from fedtune.audit.checks.recording import Release
from fedtune.privacy.plan import Plan

ROUNDING = 1e-6
"""How far, relatively, a norm that was computed otherwise may come out above the clip."""


def check_clip(releases: Sequence[Release], plan: Plan) -> Finding:
    """The largest contribution seen against the clip; one above it is one too many."""
    seen = [release.largest for release in releases if release.largest is not None]
    largest = max(seen, default=0.0)
    holds = largest <= plan.clip * (1 + ROUNDING)
    return Finding("clip", holds, f"largest contribution {largest:.4g} where the plan clips to {plan.clip:.4g}")
