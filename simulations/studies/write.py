"""Writes what came of a study: the table as CSV, the picture, and the summary in words."""

from collections.abc import Iterable
from pathlib import Path

from fedtune.runs.atomic import write_atomically
from simulations.studies.outcome import Outcome
from simulations.studies.picture import draw
from simulations.studies.plan import Plan
from simulations.studies.results import Row, as_csv, rows_of
from simulations.studies.summary import summary

TABLE, PICTURE, SUMMARY = "results.csv", "plot.png", "summary.md"


def write_results(plan: Plan, outcomes: Iterable[Outcome], folder: Path) -> list[Row]:
    """Write all three into `folder` and return the rows of the table; raises RunError where the disk is full."""
    known = list(outcomes)
    rows = rows_of(plan, known)
    write_atomically(folder / TABLE, as_csv(rows).encode())
    write_atomically(folder / PICTURE, draw(plan, rows))
    write_atomically(folder / SUMMARY, summary(plan, rows, known).encode())
    return rows
