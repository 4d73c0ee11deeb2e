"""The rows of a study, divided once: some to learn from, and test rows that no cell learns or tunes on."""

from pathlib import Path

from pyarrow import parquet

from fedtune.data.locate import read_source
from fedtune.data.split import split_indices
from fedtune.errors import DataError
from fedtune.recipe.data import DataSection
from fedtune.runs.atomic import storage_errors

POOL, TUNING, TEST = "rows.parquet", "tuning.parquet", "test.parquet"
PURPOSE, TUNING_PURPOSE = "study-test-rows", "study-tuning-rows"


def divide(section: DataSection, test_rows: int, folder: Path, *, tuning_rows: int = 0) -> None:
    """Write the rows of `section.source` into `folder` as two or three files; the same division every time.

    `tuning_rows` of those that are no test rows are public ones to choose rates on. Raises DataError where there are
    too few rows, or where the data cannot be read.
    """
    table = read_source(section.source, section.split)
    wanted = test_rows + tuning_rows
    if not 0 < test_rows <= wanted < len(table):
        raise DataError(f"{section.source} has {len(table)} rows, and {wanted} of them are to be set apart")
    kept, held = split_indices(len(table), wanted / len(table), seed=0, purpose=PURPOSE)
    tested, tuned = split_indices(wanted, tuning_rows / wanted, seed=0, purpose=TUNING_PURPOSE)
    parts = {POOL: kept, TEST: [held[at] for at in tested]}
    if tuning_rows:
        parts[TUNING] = [held[at] for at in tuned]
    with storage_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
        for name, rows in parts.items():
            parquet.write_table(table.select(rows).with_format("arrow")[:], folder / name)
