"""What a packaged data set says of itself, and how it is written."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import datasets
import pyarrow as pa
import pyarrow.parquet

from fedtune.errors import DataError
from fedtune.recipe.model import Task

ROWS_FILE = "rows.parquet"
ABOUT_FILE = "about.json"


@dataclass(frozen=True, slots=True)
class About:
    """One packaged data set; written as `about.json`."""

    title: str
    """One line: what the rows are."""
    licence: str
    """As the package or the authors of the content state it."""
    task: Task
    """What it is meant for."""
    columns: tuple[str, ...]
    """The columns of `rows.parquet`."""
    labels: tuple[str, ...] = ()
    """The classes, in order; empty for `causal-lm`."""
    natural: str = ""
    """The column by which rows belong together (review, mailing list, topic), if there is one."""


def write_packaged(out: Path, about: About, rows: Mapping[str, Sequence[Any]], features: Any = None) -> None:
    """Write `rows.parquet` and `about.json` into `out`; every column is text unless `features` says otherwise."""
    schema = (features or datasets.Features({name: datasets.Value("string") for name in rows})).arrow_schema
    table = pa.Table.from_pydict({name: list(rows[name]) for name in about.columns}, schema=schema)
    pa.parquet.write_table(table, out / ROWS_FILE, compression="zstd")
    text = json.dumps(asdict(about), indent=2, ensure_ascii=False)
    (out / ABOUT_FILE).write_text(text + "\n", encoding="utf-8")


def read_about(folder: Path) -> About:
    """What the packaged set in `folder` says of itself."""
    fields = json.loads((folder / ABOUT_FILE).read_text(encoding="utf-8"))
    lists = {key: tuple(value) for key, value in fields.items() if isinstance(value, list)}
    return About(**{**fields, **lists})


def find_file(unpacked: Path, *parts: str) -> Path:
    """The file whose path ends in `parts`, wherever in the archive it lies; the first by name where several do."""
    direct = unpacked.joinpath(*parts)
    found = [direct] if direct.is_file() else sorted(p for p in unpacked.glob("*/" + "/".join(parts)) if p.is_file())
    if not found:
        raise DataError(f"the package in {unpacked} does not hold {'/'.join(parts)}: fetch it again")
    return found[0]
