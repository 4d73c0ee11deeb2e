"""The rows of a study, divided once: some to learn from, and test rows that no cell learns or tunes on."""

from pathlib import Path

from pyarrow import parquet

from fedtune.data.locate import read_source
from fedtune.data.split import split_indices
from fedtune.errors import DataError
from fedtune.recipe.data import DataSection
from fedtune.runs.atomic import storage_errors

POOL, TEST = "rows.parquet", "test.parquet"
PURPOSE = "study-test-rows"


def divide(section: DataSection, test_rows: int, folder: Path) -> None:
    """Write the rows of `section.source` into `folder` as two files; the same division every time.

    Raises DataError where there are too few rows, or where the data cannot be read.
    """
    table = read_source(section.source, section.split)
    if not 0 < test_rows < len(table):
        raise DataError(f"{section.source} has {len(table)} rows, and {test_rows} of them are to be test rows")
    kept, held = split_indices(len(table), test_rows / len(table), seed=0, purpose=PURPOSE)
    with storage_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
        for name, rows in ((POOL, kept), (TEST, held)):
            parquet.write_table(table.select(rows).with_format("arrow")[:], folder / name)
