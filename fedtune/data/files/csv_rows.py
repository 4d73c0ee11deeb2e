"""CSV and TSV with a header line; every value stays text."""

import csv
import io
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import pyarrow as pa

from fedtune.data.files.decode import read_utf8
from fedtune.errors import DataError
from fedtune.suggest import quoted

if TYPE_CHECKING:
    from _csv import Reader

DELIMITERS = (",", ";", "\t")
MAX_FIELD_CHARACTERS = 2**30


def read_csv(path: Path) -> pa.Table:
    """Comma, semicolon or tab, whichever the header holds most of; quoted fields may hold line breaks.

    Columns without a name (an index that pandas wrote) are left out.
    """
    text = read_utf8(path).lstrip("\r\n")
    delimiter = max(DELIMITERS, key=text.split("\n", 1)[0].count)
    with _long_fields():
        header, rows = _parsed(path, csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True))
    columns = zip(*rows, strict=True)
    return pa.table({name: pa.array(values, pa.string()) for name, values in zip(header, columns, strict=True) if name})


def _parsed(path: Path, reader: "Reader") -> tuple[list[str], list[list[str]]]:
    rows: list[list[str]] = []
    try:
        header = [name.strip() for name in next(reader)]
        for row in reader:
            if not row:
                continue  # a blank line
            if len(row) != len(header):
                raise DataError(
                    f"{path}, line {reader.line_num}: {len(row)} fields where the header has {len(header)}; "
                    "put quotes around text that holds the delimiter"
                )
            rows.append(row)
    except csv.Error as error:
        raise DataError(f"{path}, line {reader.line_num}: malformed CSV ({error})") from error
    _check_shape(path, header, rows)
    return header, rows


def _check_shape(path: Path, header: list[str], rows: list[list[str]]) -> None:
    twice = next((name for name in header if name and header.count(name) > 1), None)
    if twice:
        raise DataError(f"{path} has two columns named {quoted(twice)}: rename one of them")
    if not rows:
        raise DataError(f"{path} is empty: it has a header and no row")


@contextmanager
def _long_fields() -> Iterator[None]:
    """The csv module's own limit of 128 KiB is shorter than some mails."""
    before = csv.field_size_limit(MAX_FIELD_CHARACTERS)
    try:
        yield
    finally:
        csv.field_size_limit(before)
