"""The page about aggregation says what the schemes declare."""

from pathlib import Path

from fedtune.aggregation import SCHEMES
from fedtune.aggregation.reference import reference

PAGE = Path(__file__).parents[2] / "docs" / "aggregation.md"


def test_the_page_holds_a_fresh_reference() -> None:
    assert reference() in PAGE.read_text(encoding="utf-8"), (
        "docs/aggregation.md is stale: replace its tables by the output of `python -m fedtune.aggregation.reference`"
    )


def test_every_scheme_has_a_row_in_both_tables() -> None:
    for name in SCHEMES:
        assert reference().count(f"\n| `{name}` |") == 2
