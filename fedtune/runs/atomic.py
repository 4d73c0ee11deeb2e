"""Writing files so that a crash at any moment leaves either the old file or the new one."""

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from fedtune.errors import RunError

TEMPORARY_PREFIX = ".part-"
"""Names of files that a crash may leave behind; nobody reads them, the next writer replaces them."""

_CAUSES = {
    errno.ENOSPC: "the disk is full; free some space, then go on with --resume",
    errno.EDQUOT: "the disk quota is used up; free some space, then go on with --resume",
    errno.EFBIG: "the file would pass the size limit of this process; raise it, then go on with --resume",
    errno.EROFS: "the file system is read-only; choose another run.folder",
    errno.EACCES: "permission is denied; choose another run.folder or change its owner",
    errno.EPERM: "permission is denied; choose another run.folder or change its owner",
    errno.ENOTDIR: "a part of the path is a file; choose another run.folder",
}


@contextmanager
def storage_errors(path: Path) -> Iterator[None]:
    """Turn an OSError of the operating system into a RunError that names `path` and the way out."""
    try:
        yield
    except OSError as error:
        cause = _CAUSES.get(error.errno or 0, error.strerror or str(error))
        raise RunError(f"{path} cannot be written: {cause}") from error


def write_atomically(path: Path, content: bytes, *, private: bool = False) -> None:
    """Replace `path` by `content`, durably; `private` makes it readable by its owner alone.

    Guarantees: whoever reads `path` sees the old content or the new, never a mixture, also after a power failure;
    when this raises RunError (a full disk, …), the old content is still there.
    """
    temporary = path.with_name(TEMPORARY_PREFIX + path.name)
    with storage_errors(path):
        try:
            write_durably(temporary, content, private=private)
            os.replace(temporary, path)
        except OSError:
            with suppress(OSError):
                temporary.unlink()
            raise
        sync_folder(path.parent)


def write_durably(path: Path, content: bytes, *, private: bool = False) -> None:
    """Write a new file and wait until it is on the disk; raises OSError. The name needs `sync_folder` to last."""
    with open(path, "wb", opener=_for_its_owner if private else None) as file:
        if private:  # the name may have been there, with other rights
            os.fchmod(file.fileno(), 0o600)
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


def append_durably(path: Path, line: bytes, *, private: bool = False) -> None:
    """Add `line` at the end of a file, all of it or nothing, and wait until it is on the disk; raises OSError."""
    is_new = not path.exists()
    with open(path, "ab", buffering=0, opener=_for_its_owner if private else None) as file:
        before = file.seek(0, os.SEEK_END)
        try:
            written = file.write(line)
            # A write to a nearly full disk takes what fits and fails only at the next one.
            while written < len(line):
                written += file.write(line[written:])
            os.fsync(file.fileno())
        except OSError:
            file.truncate(before)
            raise
    if is_new:
        sync_folder(path.parent)


def _for_its_owner(path: str, flags: int) -> int:
    return os.open(path, flags, 0o600)


def sync_folder(folder: Path) -> None:
    """Wait until the names in a folder are on the disk; raises OSError."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
