"""Reads a trace of who is online when: CSV with the columns `client`, `start` and `end`, in virtual seconds."""

import csv
import math
from collections.abc import Container
from pathlib import Path

from fedtune.errors import DataError

COLUMNS = ("client", "start", "end")

Intervals = dict[str, list[tuple[float, float]]]


def read_trace(path: Path, names: Container[str]) -> Intervals:
    """The intervals of each client, ascending; those that touch or overlap are one.

    Raises DataError, with the line, where the file cannot be read or says what cannot be.
    """
    found: Intervals = {}
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            reader = csv.DictReader(file)
            if missing := [name for name in COLUMNS if name not in (reader.fieldnames or ())]:
                raise DataError(
                    f"the trace {path} has no column {', '.join(missing)}; its first line must name client, start, end"
                )
            for row in reader:
                client, start, end = _interval(row, names, f"line {reader.line_num} of the trace {path}")
                found.setdefault(client, []).append((start, end))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"the trace {path} cannot be read: {error}; set simulation.trace to a CSV file") from error
    if not found:
        raise DataError(f"the trace {path} has no line of a client, so nobody would ever be online; add some")
    return {client: _merged(intervals) for client, intervals in found.items()}


def _interval(row: dict[str, str | None], names: Container[str], where: str) -> tuple[str, float, float]:
    client, start, end = (row[name] or "" for name in COLUMNS)
    if client not in names:
        raise DataError(f"{where} is about {client!r}, and there is no such client; they are client-0, client-1, …")
    try:
        times = float(start), float(end)
    except ValueError:
        raise DataError(f"{where} must give start and end in seconds, not {start!r} and {end!r}") from None
    if not all(map(math.isfinite, times)) or not 0 <= times[0] < times[1]:
        raise DataError(f"{where} must end after it starts, and start at 0 or later; it goes from {start} to {end}")
    return client, *times


def _merged(intervals: list[tuple[float, float]]) -> list[tuple[float, float]]:
    merged: list[tuple[float, float]] = []
    for start, end in sorted(intervals):
        if merged and start <= merged[-1][1]:
            merged[-1] = merged[-1][0], max(end, merged[-1][1])
        else:
            merged.append((start, end))
    return merged
