"""The committed result of the study of compression is whole, and its page says what it shows."""

import csv
from dataclasses import fields
from pathlib import Path

import pytest

from fedtune.runs.words import bytes_text
from simulations.studies.compression import BASELINE, CONTENDERS
from simulations.studies.show import spread_text
from simulations.studies.traffic import Traffic

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs/studies/compression.md").read_text(encoding="utf-8")
ROWS = list(csv.DictReader((ROOT / "benchmarks/results/study_compression.csv").open()))


def test_every_contender_is_there_over_three_seeds_and_nothing_was_left_out() -> None:
    assert [row["contender"] for row in ROWS] == list(CONTENDERS)
    assert list(ROWS[0]) == [field.name for field in fields(Traffic)]
    assert {(row["seeds"], row["failed"], row["left_out"]) for row in ROWS} == {("3", "0", "0")}


def test_bytes_are_compared_with_the_baseline() -> None:
    whole = next(float(row["bytes_up"]) for row in ROWS if row["contender"] == BASELINE)
    for row in ROWS:
        assert float(row["times_fewer"]) == pytest.approx(whole / float(row["bytes_up"]), rel=1e-3)


@pytest.mark.parametrize("contender", CONTENDERS)
def test_the_page_has_the_figures_of_the_table(contender: str) -> None:
    row = next(row for row in ROWS if row["contender"] == contender)
    line = next(line for line in PAGE.splitlines() if line.startswith((f"| {contender} |", f"| {contender} * |")))
    cells = line.strip("| ").split(" | ")
    assert cells[1] == f"{float(row['lr']):g}"
    assert cells[2] == spread_text(float(row["accuracy_mean"]), float(row["accuracy_std"]))
    assert cells[4:7] == [
        bytes_text(float(row["bytes_up"])),
        f"{float(row['times_fewer']):,.0f} x",
        bytes_text(float(row["bytes_down"])),
    ]
