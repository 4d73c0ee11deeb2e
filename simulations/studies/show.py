"""A study's table in words, for the terminal and for Markdown."""

from collections.abc import Iterable, Sequence

from rich.table import Table

from fedtune.runs.words import bytes_text, percent_text
from simulations.studies.plan import Plan
from simulations.studies.results import Row

HEADINGS = ("method", "rate", "test accuracy", "clients' own rows", "product error", "up", "down")
NOT_KNOWN = "–"


def cells_of(row: Row) -> tuple[str, ...]:
    """A row in words, in the order of `HEADINGS`."""
    failed = f" ({row.failed} failed)" if row.failed else ""
    return (
        row.method,
        f"{row.lr:g}",
        spread_text(row.accuracy_mean, row.accuracy_std) + failed,
        spread_text(row.local_accuracy_mean, row.local_accuracy_std),
        NOT_KNOWN if row.product_error_max is None else f"{row.product_error_max:.1e}",
        NOT_KNOWN if row.bytes_up is None else bytes_text(row.bytes_up),
        NOT_KNOWN if row.bytes_down is None else bytes_text(row.bytes_down),
    )


def spread_text(mean: float | None, std: float | None) -> str:
    """`71.2 % ± 1.3`, without the spread where there is one seed; a dash where nothing was measured."""
    if mean is None:
        return NOT_KNOWN
    return percent_text(mean) if std is None else f"{percent_text(mean)} ± {100 * std:.1f}"


def tables(plan: Plan, rows: Sequence[Row]) -> Iterable[Table]:
    """One table a split, for the terminal."""
    for split in plan.splits:
        table = Table(title=split, title_justify="left")
        for heading in HEADINGS:
            table.add_column(heading, justify="left" if heading == "method" else "right")
        for row in rows:
            if row.split == split:
                table.add_row(*cells_of(row))
        yield table


def markdown_table(rows: Sequence[Row]) -> str:
    """The same rows as a table of Markdown."""
    rule = ("---", *["---:"] * (len(HEADINGS) - 1))
    return "\n".join(f"| {' | '.join(line)} |" for line in (HEADINGS, rule, *map(cells_of, rows)))
