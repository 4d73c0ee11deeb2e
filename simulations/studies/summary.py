"""The reading of a study, as Markdown: what ran, a table a split, and what the figures say and do not say."""

from collections.abc import Iterable, Sequence

from simulations.studies.compare import differences
from simulations.studies.outcome import Outcome
from simulations.studies.plan import Plan
from simulations.studies.results import ROUNDING, Row
from simulations.studies.show import markdown_table

REFERENCE = "fedit"
"""The method that the others are compared with."""
HOW_TO_READ = (
    "Accuracy is the mean over seeds ± the sample standard deviation; the product error is the largest of any round; "
    "bytes are those of one client in one round, measured. Test accuracy is of the global state; a method that keeps "
    "a part with each client has none, and is to be read in the column beside, where every method is scored on the "
    "clients' own held-out rows."
)
HOW_TO_COMPARE = (
    "Difference in accuracy, paired by split and seed, in points, with its 95 % interval by Student's t: on the test "
    "rows, or on the clients' own where there is no global state. An interval that holds zero shows neither gain nor "
    "loss. Where there is no difference at all, one interval in twenty leaves zero out by chance."
)


def summary(plan: Plan, rows: Sequence[Row], outcomes: Iterable[Outcome]) -> str:
    """The whole study; each paragraph and table apart."""
    known = list(outcomes)
    parts = [
        f"# The {plan.form} study of {plan.about}",
        _what_ran(plan, known),
        *(part for split in plan.splits for part in _of_split(split, rows)),
        *_errors(plan, rows),
        f"## Against {REFERENCE}",
        HOW_TO_COMPARE,
        *_gains(plan, "all splits", list(plan.splits), known),
        *(part for split in plan.splits for part in _gains(plan, split, [split], known)),
        "## Learning rates",
        _edges(plan, rows),
    ]
    return "\n\n".join(parts) + "\n"


def _what_ran(plan: Plan, outcomes: Sequence[Outcome]) -> str:
    reported = [outcome for outcome in outcomes if outcome.cell.stage == "report"]
    seeds = sorted({outcome.cell.seed for outcome in reported})
    lost = sum(outcome.left_out for outcome in reported)
    tuned_on = "public rows, which are no test rows," if plan.tuning_rows else "the clients' held-out rows"
    return (
        f"{len(reported)} simulations of {len(plan.contenders)} methods on {len(plan.splits)} splits, seeds "
        f"{', '.join(map(str, seeds))}; {plan.test_rows} test rows, the same for all. Learning rates are those that "
        f"were best on {tuned_on} of {plan.tuning_split} with seed {plan.tuning_seed}, which is not "
        f"reported. {lost} updates were left out. {HOW_TO_READ}"
    )


def _of_split(split: str, rows: Sequence[Row]) -> Iterable[str]:
    yield f"## {split}"
    yield markdown_table([row for row in rows if row.split == split])


def _errors(plan: Plan, rows: Sequence[Row]) -> Iterable[str]:
    worst = {method: _worst(method, rows) for method in plan.contenders}
    if not any(error is not None for error in worst.values()):
        return  # under privacy the server measures none
    yield "## Product error"
    at_rounding = [method for method, error in worst.items() if error is not None and error < ROUNDING]
    above = [f"{method} ({error:.1e})" for method, error in worst.items() if error is not None and error >= ROUNDING]
    unknown = [method for method, error in worst.items() if error is None]
    yield f"At rounding (below {ROUNDING:g}) in every round: {', '.join(at_rounding) or 'none'}."
    yield f"Above it, with the largest of any round: {', '.join(above) or 'none'}."
    if unknown:
        yield f"Not defined, for the server does not see the whole product: {', '.join(unknown)}."


def _worst(method: str, rows: Sequence[Row]) -> float | None:
    errors = [row.product_error_max for row in rows if row.method == method and row.product_error_max is not None]
    return max(errors, default=None)


def _gains(plan: Plan, title: str, splits: Sequence[str], outcomes: Sequence[Outcome]) -> Iterable[str]:
    found = differences(outcomes, splits, REFERENCE, list(plan.contenders))
    yield f"**{title}**"
    yield "\n".join(f"- {difference.in_words()}" for difference in found) or "- nothing to compare"


def _edges(plan: Plan, rows: Sequence[Row]) -> str:
    chosen = {row.method: row.lr for row in rows}
    edges = [f"{method} ({lr:g})" for method, lr in chosen.items() if lr in (min(grid := plan.grid(method)), max(grid))]
    if not edges:
        return "Every chosen rate lies inside its grid."
    return f"Chosen at the edge of its grid, so a better rate may lie beyond: {', '.join(edges)}."
