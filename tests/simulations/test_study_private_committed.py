"""The committed result of the study of private training is whole, and its page says what it shows."""

import csv
from pathlib import Path

import pytest

from fedtune.runs.words import bytes_text
from simulations.studies.private import CONTENDERS, SPLITS
from simulations.studies.published import PUBLISHED, recompute
from simulations.studies.show import spread_text

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs/studies/private.md").read_text(encoding="utf-8")
ROWS = list(csv.DictReader((ROOT / "benchmarks/results/study_private.csv").open()))


def line_of(first: str) -> list[str]:
    return next(line for line in PAGE.splitlines() if line.startswith(f"| {first} |")).strip("| ").split(" | ")


def test_every_method_is_there_at_every_epsilon_over_three_seeds() -> None:
    assert [(row["method"], row["split"]) for row in ROWS] == [(m, s) for s in SPLITS for m in CONTENDERS]
    assert {(row["seeds"], row["failed"], row["left_out"]) for row in ROWS} == {("3", "0", "0")}


@pytest.mark.parametrize("method", CONTENDERS)
def test_the_page_has_the_figures_of_the_table(method: str) -> None:
    rows = [row for row in ROWS if row["method"] == method]
    assert {float(row["lr"]) for row in rows} <= set(CONTENDERS[CONTENDERS[method].rate_of or method].rates)
    assert line_of(f"`{method}`") == [
        f"`{method}`",
        f"{float(rows[0]['lr']):g}",
        *(spread_text(float(row["accuracy_mean"]), float(row["accuracy_std"])) for row in rows),
        bytes_text(float(rows[0]["bytes_up"])),
    ]


@pytest.mark.parametrize("reported", PUBLISHED)
def test_the_page_has_what_the_published_protocol_spends(reported: float) -> None:
    row = recompute(reported)
    figures = (row.noise_multiplier, row.fixed_delta, row.row_delta, row.needed)
    assert line_of(f"{reported:g}") == [f"{reported:g}", *(f"{figure:.2f}" for figure in figures)]
