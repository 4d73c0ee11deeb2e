"""The table of a study: one row a method and split, over its seeds."""

import csv
import io
import statistics
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any

from simulations.studies.outcome import Outcome
from simulations.studies.plan import Plan

ROUNDING = 1e-5
"""A product error below this is fp32 rounding; an error of a method is larger by orders of magnitude."""


@dataclass(frozen=True, slots=True)
class Row:
    """One method on one split."""

    method: str
    split: str
    lr: float
    seeds: int
    """Simulations that came to an end."""
    failed: int
    """Simulations that did not."""
    accuracy_mean: float | None
    """On the test rows; None where there is no global state."""
    accuracy_std: float | None
    """Sample standard deviation over seeds; None for one seed."""
    local_accuracy_mean: float | None
    """On the rows that the clients hold out."""
    local_accuracy_std: float | None
    product_error_max: float | None
    """The largest of any round and seed; None where clients keep a part to themselves."""
    product_error_mean: float | None
    bytes_up: float | None
    """Of a client in a round, mean."""
    bytes_down: float | None
    left_out: int
    """Updates that did not count, over all seeds."""

    @property
    def is_exact(self) -> bool | None:
        """Was the new global product the mean of the clients' products, to rounding, in every round?"""
        return None if self.product_error_max is None else self.product_error_max < ROUNDING


def rows_of(plan: Plan, outcomes: Iterable[Outcome]) -> list[Row]:
    """The rows of the report's cells, split after split, methods in the plan's order; none for a cell without seeds."""
    report = [outcome for outcome in outcomes if outcome.cell.stage == "report"]
    rows = []
    for split in plan.splits:
        for method in plan.contenders:
            if cells := [o for o in report if (o.cell.method, o.cell.split) == (method, split)]:
                rows.append(_row(cells))
    return rows


def as_csv(rows: Sequence[Any], kind: type = Row) -> str:
    """Rows, dataclasses of one `kind`, as CSV with a heading; an empty field is a figure that there is not."""
    text = io.StringIO()
    writer = csv.DictWriter(text, [field.name for field in fields(kind)], lineterminator="\n")
    writer.writeheader()
    writer.writerows({name: _field(value) for name, value in asdict(row).items()} for row in rows)
    return text.getvalue()


def _field(value: str | float | None) -> str:
    return f"{value:.6g}" if isinstance(value, float) else "" if value is None else str(value)


def _row(cells: Sequence[Outcome]) -> Row:
    ended = [outcome for outcome in cells if not outcome.failure]
    errors = [error for outcome in ended for error in outcome.product_errors]
    accuracy, local = _spread(o.accuracy for o in ended), _spread(o.local_accuracy for o in ended)
    return Row(
        method=cells[0].cell.method,
        split=cells[0].cell.split,
        lr=cells[0].cell.lr,
        seeds=len(ended),
        failed=len(cells) - len(ended),
        accuracy_mean=accuracy[0],
        accuracy_std=accuracy[1],
        local_accuracy_mean=local[0],
        local_accuracy_std=local[1],
        product_error_max=max(errors, default=None),
        product_error_mean=statistics.fmean(errors) if errors else None,
        bytes_up=_spread(o.bytes_up for o in ended)[0],
        bytes_down=_spread(o.bytes_down for o in ended)[0],
        left_out=sum(outcome.left_out for outcome in ended),
    )


def _spread(values: Iterable[float | None]) -> tuple[float | None, float | None]:
    """Mean and sample standard deviation of the values that there are."""
    known = [value for value in values if value is not None]
    mean = statistics.fmean(known) if known else None
    return mean, statistics.stdev(known) if len(known) > 1 else None
