"""Files of the user become tables in memory; nothing of them is copied to disk."""

from collections.abc import Callable
from pathlib import Path

import pyarrow as pa

from fedtune.data.files.csv_rows import read_csv
from fedtune.data.files.image_folder import is_image_folder, read_image_folder
from fedtune.data.files.json_rows import read_json, read_jsonl
from fedtune.data.files.parquet_rows import read_parquet

READERS: dict[str, Callable[[Path], pa.Table]] = {
    ".jsonl": read_jsonl,
    ".ndjson": read_jsonl,
    ".json": read_json,
    ".csv": read_csv,
    ".tsv": read_csv,
    ".parquet": read_parquet,
}
"""The reader of each kind of file, by the end of its name."""

__all__ = ["READERS", "is_image_folder", "read_image_folder"]
