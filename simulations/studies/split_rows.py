"""The table of the study of split learning: accuracy, measured bytes and counted work, one row a contender."""

import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from fedtune.split.crossing import Ways, break_even
from simulations.studies.outcome import Outcome
from simulations.studies.plan import Plan
from simulations.studies.results import rows_of
from simulations.studies.split import FULL, LORA
from simulations.studies.split_costs import Cost


@dataclass(frozen=True, slots=True)
class SplitRow:
    """One contender in one world over its seeds; None is what is not known.

    Bytes, FLOPs, passes and memory are of one client, in one round where that matters.
    """

    world: str
    contender: str
    lr: float
    seeds: int
    """Simulations that came to an end."""
    failed: int
    accuracy_mean: float | None
    """On the test rows after the last round."""
    accuracy_std: float | None
    """Sample standard deviation over seeds; None for one seed."""
    flops: float
    """Counted by formula."""
    flops_share: float
    """Over those of full fine-tuning."""
    memory: float
    """Bytes, by formula, in fp32."""
    memory_measured: float | None
    """Bytes that a process of its own takes at its peak beyond the libraries; None where it was not measured."""
    update_up: float | None
    """Measured on the messages: mean over clients, rounds and seeds."""
    update_down: float | None
    body_up: float | None
    """Activations and gradients, counted as they are encoded: the same mean."""
    body_down: float | None
    bytes_share: float | None
    """All measured bytes, both ways, over those of full fine-tuning."""
    planned_body: float
    """Bytes to and from the body by formula."""
    passes: int
    """Sample passes with training: through the body, or through the whole model."""
    alone: int
    """Sample passes without the body."""
    even_full: float | None
    """Sample passes from which full fine-tuning sends less; None where it always does, or nothing is split."""
    even_lora: float | None
    left_out: int
    """Updates that did not count, over all seeds."""

    @property
    def up(self) -> float | None:
        """All bytes up."""
        return None if self.update_up is None or self.body_up is None else self.update_up + self.body_up

    @property
    def down(self) -> float | None:
        """All bytes down."""
        return None if self.update_down is None or self.body_down is None else self.update_down + self.body_down

    @property
    def both(self) -> float | None:
        """All bytes."""
        return None if self.up is None or self.down is None else self.up + self.down


def split_rows(world: str, plan: Plan, outcomes: Iterable[Outcome], costs: Mapping[str, Cost]) -> list[SplitRow]:
    """The rows of one world, in the plan's order."""
    known = [o for o in outcomes if o.cell.stage == "report"]
    ended = {name: [o for o in known if o.cell.method == name and not o.failure] for name in plan.contenders}
    full = _both(ended[FULL])
    made = []
    for row in rows_of(plan, known):
        mine, cost = ended[row.method], costs[row.method]
        sent = _both(mine)
        made.append(
            SplitRow(
                world=world,
                contender=row.method,
                lr=row.lr,
                seeds=row.seeds,
                failed=row.failed,
                accuracy_mean=row.accuracy_mean,
                accuracy_std=row.accuracy_std,
                flops=cost.flops,
                flops_share=cost.flops / costs[FULL].flops,
                memory=cost.memory,
                memory_measured=cost.peak,
                update_up=row.bytes_up,
                update_down=row.bytes_down,
                body_up=_mean([o.body_up for o in mine]),
                body_down=_mean([o.body_down for o in mine]),
                bytes_share=None if sent is None or not full else sent / full,
                planned_body=cost.body.both,
                passes=cost.passes,
                alone=cost.alone,
                even_full=_even(cost, costs[FULL].update),
                even_lora=_even(cost, costs[LORA].update),
                left_out=row.left_out,
            )
        )
    return made


def _even(cost: Cost, other: Ways) -> float | None:
    return break_even(other, cost.update, cost.body * (1 / cost.passes)) if cost.body.both and cost.passes else None


def _both(outcomes: Sequence[Outcome]) -> float | None:
    return _mean([o.bytes_up + o.bytes_down + o.body_up + o.body_down for o in outcomes])


def _mean(values: Sequence[float]) -> float | None:
    return statistics.fmean(values) if values else None
