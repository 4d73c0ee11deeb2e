"""The committed result of the study of split learning is whole, and its page says what it shows."""

import csv
from pathlib import Path

import pytest

from fedtune.runs.words import bytes_text, percent_text
from simulations.studies.show import spread_text
from simulations.studies.split import CONTENDERS, WORLDS

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs/studies/split.md").read_text(encoding="utf-8")
ROWS = list(csv.DictReader((ROOT / "benchmarks/results/study_split.csv").open()))


def line_of(world: str, contender: str) -> list[str]:
    table = PAGE.split(f"### {world.capitalize()}")[1]
    return next(line for line in table.splitlines() if line.startswith(f"| `{contender}` |")).strip("| ").split(" | ")


def number(row: dict[str, str], *columns: str) -> float:
    return sum(float(row[column]) for column in columns)


def test_every_contender_is_there_in_every_world_over_three_seeds() -> None:
    assert [(row["world"], row["contender"]) for row in ROWS] == [(w, c) for w in WORLDS for c in CONTENDERS]
    assert {(row["seeds"], row["failed"], row["left_out"]) for row in ROWS} == {("3", "0", "0")}


@pytest.mark.parametrize("row", ROWS, ids=lambda row: f"{row['world']}-{row['contender']}")
def test_the_page_has_the_figures_of_the_table(row: dict[str, str]) -> None:
    contender = CONTENDERS[row["contender"]]
    assert float(row["lr"]) in CONTENDERS[contender.rate_of or row["contender"]].rates
    measured = row["memory_measured"]
    assert line_of(row["world"], row["contender"]) == [
        f"`{row['contender']}`",
        f"{float(row['lr']):g}",
        spread_text(number(row, "accuracy_mean"), number(row, "accuracy_std")),
        percent_text(number(row, "flops_share")),
        bytes_text(number(row, "update_up", "update_down")),
        bytes_text(number(row, "body_up", "body_down")),
        percent_text(number(row, "bytes_share")),
        bytes_text(number(row, "memory")),
        bytes_text(float(measured)) if measured else "–",
    ]
