"""`rounds.jsonl`: one line a round, only ever appended to, sound after a crash in the middle of a line."""

import json
import logging
from pathlib import Path

from pydantic import ValidationError

from fedtune.errors import RunError
from fedtune.runs.atomic import append_durably, storage_errors, write_atomically
from fedtune.runs.record import RoundRecord

logger = logging.getLogger(__name__)


class RoundJournal:
    """The rounds of one run in order.

    Guarantees: `append` returns only when the line is on the disk; a line that a crash tore is the last one, is
    never taken for a round, and never takes an earlier line with it.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._last: int | None = None

    def read(self) -> tuple[RoundRecord, ...]:
        """Every whole round; raises RunError where a line that is not the last is damaged."""
        return _parse(self._content(), self.path)[0]

    def mend(self) -> int:
        """Cut off a torn last line before the first `append`; returns how many bytes were cut."""
        content = self._content()
        _, sound_bytes = _parse(content, self.path)
        sound = content[:sound_bytes]
        if sound and not sound.endswith(b"\n"):
            sound += b"\n"
        if sound == content:
            return 0
        write_atomically(self.path, sound)
        torn = len(content) - sound_bytes
        if torn:
            logger.warning("cut off a torn last line of %d bytes in %s", torn, self.path)
        return torn

    def append(self, record: RoundRecord) -> None:
        """Add a round; raises RunError where it is not later than the last one, or the disk does not take it."""
        last = self.last_round()
        if record.round <= last:
            raise RunError(f"{self.path} already holds round {last}, so round {record.round} cannot be added to it")
        line = record.model_dump_json().encode() + b"\n"
        with storage_errors(self.path):
            append_durably(self.path, line)
        self._last = record.round

    def last_round(self) -> int:
        """The number of the last whole round; -1 where there is none. Read once, then remembered."""
        if self._last is None:
            records = self.read()
            self._last = records[-1].round if records else -1
        return self._last

    def truncate_after(self, round_: int) -> int:
        """Drop the rounds after `round_`, at once or not at all; returns how many were dropped."""
        records = self.read()
        kept = [r for r in records if r.round <= round_]
        if len(kept) < len(records):
            lines = self._content().splitlines(keepends=True)[: len(kept)]
            write_atomically(self.path, b"".join(lines))
            self._last = kept[-1].round if kept else -1
        return len(records) - len(kept)

    def _content(self) -> bytes:
        try:
            return self.path.read_bytes()
        except FileNotFoundError:
            return b""
        except OSError as error:
            raise RunError(f"{self.path} cannot be read: {error.strerror}") from error


def _parse(content: bytes, path: Path) -> tuple[tuple[RoundRecord, ...], int]:
    """The whole records and how many bytes they take; what follows those is a torn line."""
    records: list[RoundRecord] = []
    sound_bytes = 0
    lines = content.splitlines(keepends=True)
    for number, line in enumerate(lines, start=1):
        values = _values(line)
        if values is None:
            if number == len(lines):
                break
            raise RunError(f"line {number} of {path} is damaged; restore the file from a copy")
        records.append(_record(values, number, path))
        sound_bytes += len(line)
    return tuple(records), sound_bytes


def _values(line: bytes) -> dict[str, object] | None:
    try:
        values = json.loads(line)
    except ValueError:
        return None
    return values if isinstance(values, dict) else None


def _record(values: dict[str, object], number: int, path: Path) -> RoundRecord:
    try:
        return RoundRecord.model_validate(values)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        raise RunError(
            f"line {number} of {path} is no round of this version of fedtune ({where}: {first['msg']})"
        ) from error
