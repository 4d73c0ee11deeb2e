"""Writes what came of a study: the table as CSV, the picture, and the summary in words."""

from collections.abc import Iterable, Sequence
from pathlib import Path

from fedtune.runs.atomic import write_atomically
from simulations.studies.outcome import Outcome
from simulations.studies.picture import draw
from simulations.studies.plan import Plan
from simulations.studies.results import Row, as_csv, rows_of
from simulations.studies.split_picture import draw_split
from simulations.studies.split_rows import SplitRow
from simulations.studies.split_words import World, split_summary
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


def write_split(worlds: Sequence[World], folder: Path) -> None:
    """The same of the study of split learning, all its worlds in one."""
    rows = [row for world in worlds for row in world.rows]
    _write(folder, as_csv(rows, SplitRow), draw_split(worlds), split_summary(worlds))


def _write(folder: Path, table: str, picture: bytes, reading: str) -> None:
    write_atomically(folder / TABLE, table.encode())
    write_atomically(folder / PICTURE, picture)
    write_atomically(folder / SUMMARY, reading.encode())
