"""JSONL (an object a line) and JSON (an array of objects)."""

import json
import re
from pathlib import Path
from typing import Any

import pyarrow as pa

from fedtune.data.files.columns import table_of
from fedtune.data.files.decode import read_utf8
from fedtune.errors import DataError

HALF_CHARACTER = re.compile("[\\ud800-\\udfff]")


def read_jsonl(path: Path) -> pa.Table:
    """One JSON object a line; blank lines are skipped."""
    return table_of(_lines(path, read_utf8(path)))


def read_json(path: Path) -> pa.Table:
    """An array of objects, or JSONL under another name."""
    text = read_utf8(path)
    if text.lstrip()[0] != "[":
        return table_of(_lines(path, text))
    rows = _parsed(path, text, first_line=1)
    if not rows:
        raise DataError(f"{path} is empty: its array needs at least one object")
    for number, row in enumerate(rows, start=1):
        if not isinstance(row, dict):
            raise DataError(f"{path}: element {number} of the array is no object such as {{'text': ..., 'label': ...}}")
    return table_of(rows)


def _lines(path: Path, text: str) -> list[dict[str, Any]]:
    rows = []
    # Not splitlines: U+2028 and its kin are allowed inside a JSON string.
    for number, line in enumerate(text.split("\n"), start=1):
        if line.strip():
            row = _parsed(path, line, first_line=number)
            if not isinstance(row, dict):
                raise DataError(f"{path}, line {number}: no JSON object such as {{'text': ..., 'label': ...}}")
            rows.append(row)
    return rows


def _parsed(path: Path, text: str, *, first_line: int) -> Any:
    try:
        value = json.loads(text)
    except json.JSONDecodeError as error:
        line = first_line + error.lineno - 1
        raise DataError(f"{path}, line {line}: malformed JSON at column {error.colno} ({error.msg})") from error
    except RecursionError as error:
        raise DataError(f"{path}, line {first_line}: JSON nested too deeply to be a row") from error
    # JSON may escape half of a character outside the basic plane; UTF-8 has no bytes for it.
    if "\\u" in text and HALF_CHARACTER.search(json.dumps(value, ensure_ascii=False)):
        raise DataError(
            f"{path}, line {first_line}: holds half a character (\\ud800 to \\udfff), remove or complete it"
        )
    return value
