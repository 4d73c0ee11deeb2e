"""Unpacks an archive, trusted by its hash and bounded all the same: plain files, in one folder, so many, so large."""

import tarfile
import zipfile
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import IO, Protocol

MAX_FILES = 100_000
MAX_BYTES = 4 << 30
BLOCK_BYTES = 1 << 20


class UnsafeArchive(ValueError):
    """An archive that would write outside its folder, hold links, or grow beyond the bounds."""


class Opener(Protocol):
    """Reads the regular files of one kind of archive."""

    def __call__(self, archive: Path) -> Iterator[tuple[str, IO[bytes]]]:
        """Yield (name, open file) of every regular file; the file is closed after use."""
        ...


def unpack(archive: Path, folder: Path, *, max_files: int = MAX_FILES, max_bytes: int = MAX_BYTES) -> None:
    """Unpack a zip (wheel) or gzipped tar (sdist, npm) into `folder`.

    Raises UnsafeArchive for absolute names, `..`, links, devices, more than `max_files` files or more than
    `max_bytes` bytes; the bytes are counted as they are written, whatever the archive claims.
    """
    left = max_bytes
    opener: Opener = _zip_files if zipfile.is_zipfile(archive) else _tar_files
    for count, (name, source) in enumerate(opener(archive), start=1):
        if count > max_files:
            raise UnsafeArchive(f"{archive.name} holds more than {max_files} files")
        with source:
            left -= _write(source, _inside(folder, name, archive), left, archive)


def _zip_files(archive: Path) -> Iterator[tuple[str, IO[bytes]]]:
    with zipfile.ZipFile(archive) as opened:
        for member in opened.infolist():
            if not member.is_dir():
                yield member.filename, opened.open(member)


def _tar_files(archive: Path) -> Iterator[tuple[str, IO[bytes]]]:
    with tarfile.open(archive, "r:gz") as opened:
        for member in opened:
            if member.isdir():
                continue
            source = opened.extractfile(member) if member.isreg() else None
            if source is None:
                raise UnsafeArchive(f"{archive.name} holds {member.name!r}, which is no plain file")
            yield member.name, source


def _inside(folder: Path, name: str, archive: Path) -> Path:
    parts = PurePosixPath(name).parts
    if not parts or name.startswith("/") or ".." in parts or "\\" in name or ":" in parts[0] or "\0" in name:
        raise UnsafeArchive(f"{archive.name} holds {name!r}, a name that leads out of its folder")
    return folder.joinpath(*parts)


def _write(source: IO[bytes], target: Path, left: int, archive: Path) -> int:
    target.parent.mkdir(parents=True, exist_ok=True)
    written = 0
    with target.open("wb") as sink:
        while block := source.read(BLOCK_BYTES):
            written += len(block)
            if written > left:
                raise UnsafeArchive(f"{archive.name} unpacks to more bytes than are allowed")
            sink.write(block)
    return written
