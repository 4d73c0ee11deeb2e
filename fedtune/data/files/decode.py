"""Bytes of a text file become text, or one sentence that says where they are not UTF-8."""

from pathlib import Path

from fedtune.errors import DataError


def read_utf8(path: Path) -> str:
    """The file's text, without a byte order mark; DataError where it is empty, unreadable or not UTF-8."""
    try:
        raw = path.read_bytes()
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror or error}") from error
    try:
        text = raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        # Positions are counted without the mark that utf-8-sig has skipped.
        body = raw.removeprefix(b"\xef\xbb\xbf")
        start = body.rfind(b"\n", 0, error.start) + 1
        line, byte = body.count(b"\n", 0, error.start) + 1, error.start - start + 1
        raise DataError(
            f"{path} is not UTF-8 throughout: line {line}, byte {byte} of it cannot be decoded; save the file as UTF-8"
        ) from error
    if not text.strip():
        raise DataError(f"{path} is empty: it needs at least one row")
    return text
