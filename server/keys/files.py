"""Files that hold keys: written whole or not at all, and readable by nobody else."""

import os
import tempfile
from pathlib import Path

from fedtune.errors import EnrolmentError

PRIVATE, PUBLIC, PRIVATE_FOLDER = 0o600, 0o644, 0o700


def make_folder(folder: Path) -> None:
    """Make a folder, and those above it that are missing, for its owner alone.

    Raises:
        EnrolmentError: where the disk or its rights do not allow it.
    """
    try:
        folder.mkdir(mode=PRIVATE_FOLDER, parents=True, exist_ok=True)
        folder.chmod(PRIVATE_FOLDER)
    except OSError as error:
        raise EnrolmentError(f"cannot make the folder {folder}: {error.strerror or error}") from error


def write_file(path: Path, content: bytes, mode: int = PUBLIC) -> None:
    """Put `content` at `path` in one step, with its rights set before anything is in it; survives a crash.

    Raises:
        EnrolmentError: where the disk is full or its rights do not allow it; what was at `path` is still there.
    """
    try:
        descriptor, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    except OSError as error:
        raise EnrolmentError(f"cannot write {path}: {error.strerror or error}") from error
    try:
        os.fchmod(descriptor, mode)
        with os.fdopen(descriptor, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except OSError as error:
        Path(temporary).unlink(missing_ok=True)
        raise EnrolmentError(f"cannot write {path}: {error.strerror or error}") from error


def read_file(path: Path, what: str) -> bytes:
    """The bytes of a file of the key folder.

    Raises:
        EnrolmentError: where it is missing or cannot be read; says what it would hold.
    """
    try:
        return path.read_bytes()
    except FileNotFoundError as error:
        raise EnrolmentError(f"{path} is missing: it holds {what}; `fedtune keys init` makes it") from error
    except OSError as error:
        raise EnrolmentError(f"{path} cannot be read: {error.strerror or error}") from error
