"""Direct tests of a mechanism: recordings of what it did against what its plan claims."""

from collections.abc import Callable, Sequence

from fedtune.audit.checks.clip import check_clip
from fedtune.audit.checks.finding import ALPHA, Finding
from fedtune.audit.checks.noise import check_fresh, check_normal, check_scale
from fedtune.audit.checks.ran import check_events, check_start
from fedtune.audit.checks.recording import Release
from fedtune.audit.checks.sampling import check_each, check_overlap, check_rate, check_sizes
from fedtune.errors import PrivacyError
from fedtune.privacy.plan import Plan

__all__ = ["ALPHA", "Finding", "Release", "check_events", "check_mechanism", "check_start"]

Check = Callable[[Sequence[Release], Plan], Finding]

_NOISE: tuple[Check, ...] = (check_scale, check_normal, check_fresh)
_SAMPLES: tuple[Check, ...] = (check_rate, check_each, check_sizes, check_overlap)


def check_mechanism(releases: Sequence[Release], plan: Plan) -> tuple[Finding, ...]:
    """Every direct test that the recording allows: noise always, clip and samples where they were seen.

    Guarantees: over a mechanism that is as planned, each test cries wolf with chance `ALPHA` at most. The banded
    mechanism's noise is correlated on purpose and its samples are not random: record the numbers under it. Raises
    PrivacyError without releases.
    """
    if not releases:
        raise PrivacyError("there is no release to test: record the mechanism while it runs")
    checks = list(_NOISE)
    if all(release.largest is not None for release in releases):
        checks.append(check_clip)
    if all(release.drawn is not None for release in releases):
        checks.extend(_SAMPLES)
    return tuple(check(releases, plan) for check in checks)
