"""The table of a study of traffic: accuracy against bytes, one row a contender, beside a baseline."""

import math
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from simulations.studies.compare import Difference, differences
from simulations.studies.outcome import Outcome
from simulations.studies.plan import Plan
from simulations.studies.results import Row, rows_of

BELOW = 0.01
"""The target accuracy lies one point below what the baseline ends with; so much may be lost."""


@dataclass(frozen=True, slots=True)
class Traffic:
    """One contender over its seeds; None is what is not known, as where no simulation came to an end."""

    contender: str
    method: str
    lr: float
    seeds: int
    """Simulations that came to an end."""
    failed: int
    accuracy_mean: float | None
    """On the test rows after the last round."""
    accuracy_std: float | None
    """Sample standard deviation over seeds; None for one seed."""
    above_baseline: float | None
    """Mean of the differences in accuracy to the baseline, paired by seed; negative where some is lost."""
    half_width: float | None
    """Of its 95 % interval by Student's t; None for one seed."""
    bytes_up: float | None
    """A client's upload in a round, mean over clients, rounds and seeds; measured."""
    bytes_down: float | None
    times_fewer: float | None
    """The baseline's bytes up over these."""
    rounds_to_target: int | None
    """The first scored round in which the mean over seeds is at the target; None where it never is."""
    bytes_to_target: float | None
    """What a client has sent by then."""
    on_front: bool
    """Does none that sends as little or less score as high or higher?"""
    left_out: int
    """Updates that did not count, over all seeds."""

    @property
    def keeps_within(self) -> bool:
        """Is no more than a point lost in the mean?"""
        return self.above_baseline is not None and self.above_baseline >= -BELOW


def traffic_of(plan: Plan, outcomes: Iterable[Outcome], baseline: str) -> list[Traffic]:
    """The rows of the plan's only split, in its order; none before the baseline has ended once."""
    (split,) = plan.splits
    known = list(outcomes)
    rows = {row.method: row for row in rows_of(plan, known)}
    if baseline not in rows or not rows[baseline].seeds:
        return []
    gaps = {found.method: found for found in differences(known, split, baseline, list(plan.contenders))}
    front = front_of({name: (row.bytes_up or 0.0, row.accuracy_mean) for name, row in rows.items() if row.seeds})
    goal = target(rows[baseline])
    made = []
    for name, row in rows.items():
        reached = rounds_to(goal, [o for o in known if o.cell.stage == "report" and o.cell.method == name])
        method = plan.contenders[name].method or name
        made.append(_row(row, rows[baseline], gaps.get(name), method, reached, on_front=name in front))
    return made


def target(baseline: Row) -> float:
    """The accuracy that counts as reached."""
    return (baseline.accuracy_mean or 0.0) - BELOW


def rounds_to(goal: float, outcomes: Sequence[Outcome]) -> int | None:
    """The first scored round in which the mean accuracy of those that came to an end is at `goal`; None for never."""
    curves = [dict(outcome.curve) for outcome in outcomes if not outcome.failure]
    scored = sorted(set.intersection(*map(set, curves))) if curves else []
    return next((round_ for round_ in scored if statistics.fmean(c[round_] for c in curves) >= goal), None)


def front_of(points: Mapping[str, tuple[float, float | None]]) -> set[str]:
    """The names whose (bytes, accuracy) no other beats: none has as few bytes and as much accuracy, and more of one."""
    best, front = -math.inf, set()
    for name, (_, accuracy) in sorted(points.items(), key=lambda item: (item[1][0], -(item[1][1] or 0.0))):
        if (accuracy or 0.0) > best:
            best = accuracy or 0.0
            front.add(name)
    return front


def _row(row: Row, base: Row, gap: Difference | None, method: str, reached: int | None, *, on_front: bool) -> Traffic:
    is_base = row.method == base.method
    sent = row.bytes_up
    return Traffic(
        contender=row.method,
        method=method,
        lr=row.lr,
        seeds=row.seeds,
        failed=row.failed,
        accuracy_mean=row.accuracy_mean,
        accuracy_std=row.accuracy_std,
        above_baseline=0.0 if is_base else gap.mean if gap else None,
        half_width=gap.half_width if gap else None,
        bytes_up=sent,
        bytes_down=row.bytes_down,
        times_fewer=(base.bytes_up or 0.0) / sent if sent else None,
        rounds_to_target=reached,
        bytes_to_target=reached * sent if reached and sent else None,
        on_front=on_front,
        left_out=row.left_out,
    )
