"""Parquet, with the image columns that `datasets` writes."""

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet

from fedtune.errors import DataError


def read_parquet(path: Path) -> pa.Table:
    """The whole file in memory (no memory map: the file may change under a long run)."""
    try:
        table = pa.parquet.read_table(path, memory_map=False)
    except (pa.ArrowException, OSError) as error:
        raise DataError(f"{path} cannot be read as Parquet: write it anew, or save it as JSONL") from error
    if table.num_rows == 0:
        raise DataError(f"{path} is empty: it needs at least one row")
    return _plain(table)


def _plain(table: pa.Table) -> pa.Table:
    """Dictionary columns (what pandas calls categories) as their values."""
    for position, field in enumerate(table.schema):
        if pa.types.is_dictionary(field.type):
            table = table.set_column(position, field.name, table.column(position).cast(field.type.value_type))
    return table
