"""Writes what came of a study: the table as CSV, the picture, and the summary in words."""

from collections.abc import Iterable
from pathlib import Path

from fedtune.runs.atomic import write_atomically
from simulations.studies.outcome import Outcome
from simulations.studies.picture import draw
from simulations.studies.plan import Plan
from simulations.studies.results import Row, as_csv, rows_of
from simulations.studies.summary import summary
from simulations.studies.traffic import Traffic, traffic_of
from simulations.studies.traffic_picture import draw_traffic
from simulations.studies.traffic_words import traffic_summary

TABLE, PICTURE, SUMMARY = "results.csv", "plot.png", "summary.md"


def write_results(plan: Plan, outcomes: Iterable[Outcome], folder: Path) -> list[Row]:
    """Write all three into `folder` and return the rows of the table; raises RunError where the disk is full."""
    known = list(outcomes)
    rows = rows_of(plan, known)
    _write(folder, as_csv(rows), draw(plan, rows), summary(plan, rows, known))
    return rows


def write_traffic(plan: Plan, outcomes: Iterable[Outcome], folder: Path, baseline: str) -> list[Traffic]:
    """The same of a study of traffic."""
    known = list(outcomes)
    rows = traffic_of(plan, known, baseline)
    _write(folder, as_csv(rows, Traffic), draw_traffic(rows, baseline), traffic_summary(plan, rows, known, baseline))
    return rows


def _write(folder: Path, table: str, picture: bytes, reading: str) -> None:
    write_atomically(folder / TABLE, table.encode())
    write_atomically(folder / PICTURE, picture)
    write_atomically(folder / SUMMARY, reading.encode())
