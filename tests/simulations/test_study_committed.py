"""The committed result of the study of aggregation shows what it must, and its page says what it shows."""

import csv
from pathlib import Path

import pytest

from fedtune.aggregation import SCHEMES
from fedtune.recipe.load import parse_recipe
from fedtune.runs.words import bytes_text
from simulations.studies.aggregation import CONTENDERS, SPLITS, full
from simulations.studies.results import ROUNDING
from simulations.studies.show import spread_text

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs/studies/aggregation.md").read_text(encoding="utf-8")
ROWS = list(csv.DictReader((ROOT / "benchmarks/results/study_aggregation.csv").open()))

EXACT = {"fed-sb", "ravan", "ffa-lora", "rolora", "fedex-lora", "flora", "fedsvd"}


def number(text: str) -> float | None:
    return float(text) if text else None


def table_line(method: str) -> list[str]:
    """The page's line of a method in its first table."""
    return next(line for line in PAGE.splitlines() if line.startswith(f"| `{method}` |")).strip("| ").split(" | ")


def test_every_method_is_there_on_every_split() -> None:
    assert {(row["method"], row["split"]) for row in ROWS} == {(m, s) for m in CONTENDERS for s in SPLITS}
    assert all(row["failed"] == row["left_out"] == "0" for row in ROWS)


@pytest.mark.parametrize("method", CONTENDERS)
def test_product_errors_are_those_that_the_schemes_promise(method: str) -> None:
    errors = [number(row["product_error_max"]) for row in ROWS if row["method"] == method]
    recipe = parse_recipe(full().base, [f"method={method}"]).recipe
    scheme = SCHEMES[recipe.aggregation.scheme]
    assert (recipe.adapter.form in scheme.aggregator.exact_for) is (method in EXACT)
    if method == "fedsa-lora":
        assert errors == [None] * len(SPLITS)
    else:
        assert all((error < ROUNDING) is (method in EXACT) for error in errors if error is not None)
        assert None not in errors


@pytest.mark.parametrize("method", CONTENDERS)
def test_the_page_has_the_figures_of_the_table(method: str) -> None:
    rows = [row for row in ROWS if row["method"] == method]
    errors = [error for row in rows if (error := number(row["product_error_max"])) is not None]
    assert table_line(method) == [
        f"`{method}`",
        f"{float(rows[0]['lr']):g}",
        *(spread_text(number(row["accuracy_mean"]), number(row["accuracy_std"])) for row in rows),
        f"{max(errors):.1e}" if errors else "–",
        bytes_text(float(rows[0]["bytes_up"])),
        bytes_text(float(rows[0]["bytes_down"])),
    ]
