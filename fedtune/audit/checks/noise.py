"""Is the noise what the plan says: as strong, normal, and drawn anew each time?"""

from collections.abc import Sequence

import numpy as np
from scipy.stats import chi2, kstest, norm

from fedtune.audit.checks.finding import Finding, by_chance
from fedtune.audit.checks.recording import Release
from fedtune.privacy.plan import Plan

_POOLED = 20_000
"""Numbers that the test of the distribution looks at."""


def check_scale(releases: Sequence[Release], plan: Plan) -> Finding:
    """The noise's standard deviation against σ·clip: a sum of squares is χ² distributed, both tails count."""
    name, planned = "noise scale", plan.noise_multiplier * plan.clip
    pooled = np.concatenate([release.noise for release in releases])
    squares = float(np.sum((pooled / planned) ** 2))
    p_value = min(1.0, 2 * min(float(chi2.cdf(squares, len(pooled))), float(chi2.sf(squares, len(pooled)))))
    seen = float(np.sqrt(np.mean(pooled**2)))
    return by_chance(name, p_value, f"standard deviation {seen:.4g} where the plan says {planned:.4g}")


def check_normal(releases: Sequence[Release], plan: Plan) -> Finding:
    """The noise's distribution against the planned normal one (Kolmogorov and Smirnov)."""
    pooled = np.concatenate([release.noise for release in releases])[:_POOLED]
    result = kstest(pooled / (plan.noise_multiplier * plan.clip), "norm")
    return by_chance("noise distribution", float(result.pvalue), f"largest distance {float(result.statistic):.3g}")


def check_fresh(releases: Sequence[Release], _: Plan) -> Finding:
    """Correlations between the noise of every two releases: of other steps, rounds and clients.

    ρ·√D of independent noise is standard normal; the largest one is judged, all pairs paid for.
    """
    name = "fresh noise"
    length = min(len(release.noise) for release in releases)
    matrix_RD = np.stack([release.noise[:length] for release in releases])
    norms_R = np.linalg.norm(matrix_RD, axis=1)
    if not norms_R.all():
        return Finding(name, False, f"{int(np.sum(norms_R == 0))} of {len(releases)} releases have no noise at all")
    unit_RD = matrix_RD / norms_R[:, None]
    above = np.triu_indices(len(releases), k=1)
    if not len(above[0]):
        return Finding(name, True, "there was one release alone")
    correlations = np.abs((unit_RD @ unit_RD.T)[above])
    worst = int(np.argmax(correlations))
    one, other = releases[above[0][worst]].who, releases[above[1][worst]].who
    p_value = min(1.0, 2 * len(correlations) * float(norm.sf(correlations[worst] * np.sqrt(length))))
    pair = f"releases {int(above[0][worst])} ({one}) and {int(above[1][worst])} ({other})"
    return by_chance(name, p_value, f"largest correlation {correlations[worst]:.3g}, of {pair}")
