"""Are samples Poisson: each unit in by a coin of its own, independent from step to step?

A plan whose ε counts on sampling holds for those coins, not for shuffled batches of one size.
"""

from collections import Counter
from collections.abc import Sequence

import numpy as np
from scipy.stats import binomtest

from fedtune.audit.checks.finding import Finding, by_chance
from fedtune.audit.checks.recording import Release
from fedtune.privacy.plan import Plan

_SIMULATED = 20_000
"""Imitations of the recording under the plan, which the spread of sizes is compared with: p goes down to 1e-4."""


def check_rate(releases: Sequence[Release], plan: Plan) -> Finding:
    """How many were drawn in all: binomial, exactly."""
    sizes, available = _sizes(releases)
    p_value = float(binomtest(int(sizes.sum()), int(available.sum()), plan.sampling_rate).pvalue)
    seen = sizes.sum() / available.sum()
    return by_chance("sampling rate", p_value, f"{seen:.4g} where the plan says {plan.sampling_rate:.4g}")


def check_sizes(releases: Sequence[Release], plan: Plan) -> Finding:
    """How much the sizes of samples vary: as binomial ones do, neither less (fixed batches) nor more (in clumps)."""
    sizes, available = _sizes(releases)
    rate = plan.sampling_rate
    spread = np.maximum(available * rate * (1 - rate), 1e-12)
    imitated = np.random.default_rng(0).binomial(available, rate, size=(_SIMULATED, len(sizes)))
    seen, expected = (np.sum((n - available * rate) ** 2 / spread, axis=-1) for n in (sizes, imitated))
    tails = (np.sum(expected <= seen + 1e-9), np.sum(expected >= seen - 1e-9))
    p_value = min(1.0, 2 * (1 + int(min(tails))) / (1 + _SIMULATED))
    found = f"variance {seen / len(sizes):.3g} times the binomial one over {len(sizes)} samples"
    return by_chance("sample sizes", p_value, found)


def check_overlap(releases: Sequence[Release], plan: Plan) -> Finding:
    """How many are in both of two samples that follow each other: binomial with the rate squared.

    Batches of a shuffled epoch share nobody. Pairs are disjoint, and of one client each, so that they are independent.
    """
    shared, available = 0, 0
    for one, other in _pairs(releases):
        shared += len((one.drawn or frozenset()) & (other.drawn or frozenset()))
        available += min(one.available, other.available)
    if not available:
        return Finding("sample overlap", True, "no two samples of one client were seen")
    p_value = float(binomtest(shared, available, plan.sampling_rate**2).pvalue)
    expected = available * plan.sampling_rate**2
    return by_chance("sample overlap", p_value, f"{shared} in two samples running where {expected:.4g} are expected")


def check_each(releases: Sequence[Release], plan: Plan) -> Finding:
    """How often each unit was drawn: the one farthest from the rate is judged, all of them paid for."""
    worst, tested, who = 1.0, 0, ""
    for client, mine in _by_client(releases).items():
        counts = Counter(unit for release in mine for unit in release.drawn or ())
        available = min(release.available for release in mine)
        tested += available
        p_values = {count: _p_value(count, len(mine), plan) for count in {0, *counts.values()}}
        for unit in range(available):
            if (p_value := p_values[counts[unit]]) < worst:
                worst, who = p_value, f"unit {unit} of {client} was in {counts[unit]} of {len(mine)} samples"
    return by_chance("each unit's rate", min(1.0, worst * tested), who or "every unit was in as often as expected")


def _pairs(releases: Sequence[Release]) -> list[tuple[Release, Release]]:
    return [pair for mine in _by_client(releases).values() for pair in zip(mine[::2], mine[1::2], strict=False)]


def _by_client(releases: Sequence[Release]) -> dict[str, list[Release]]:
    by_client: dict[str, list[Release]] = {}
    for release in releases:
        by_client.setdefault(release.who, []).append(release)
    return by_client


def _p_value(count: int, trials: int, plan: Plan) -> float:
    return float(binomtest(count, trials, plan.sampling_rate).pvalue)


def _sizes(releases: Sequence[Release]) -> tuple[np.ndarray, np.ndarray]:
    drawn = np.array([len(release.drawn or ()) for release in releases], dtype=np.int64)
    return drawn, np.array([release.available for release in releases], dtype=np.int64)
