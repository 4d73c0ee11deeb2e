"""One writer a run folder: a lock that the operating system drops when its process ends, however it ends."""

import fcntl
import os
from pathlib import Path

from fedtune.errors import RunError
from fedtune.runs.atomic import storage_errors

LOCK_NAME = ".lock"


class FolderLock:
    """Held from construction to `release`; raises RunError where another process holds it."""

    def __init__(self, folder: Path) -> None:
        path = folder / LOCK_NAME
        with storage_errors(path):
            self._descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
        try:
            fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            holder = os.read(self._descriptor, 32).decode(errors="replace").strip() or "unknown"
            self.release()
            raise RunError(
                f"{folder} is being written by another process (pid {holder}); stop it or choose another run.name"
            ) from error
        # The pid only serves the message above, so a disk too full to hold it is no reason to stop.
        try:
            os.ftruncate(self._descriptor, 0)
            os.pwrite(self._descriptor, f"{os.getpid()}\n".encode(), 0)
        except OSError:
            pass

    def release(self) -> None:
        """Let another process write; harmless when called twice."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1


def is_locked(folder: Path) -> bool:
    """Does a living process write this run folder?"""
    try:
        descriptor = os.open(folder / LOCK_NAME, os.O_RDONLY)
    except OSError:
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except OSError:
        return True
    finally:
        os.close(descriptor)
    return False
