"""Is the disk full? Libraries say so in different ways; here all of them become one question."""

import errno
import shutil
from pathlib import Path

FULL = (errno.ENOSPC, errno.EDQUOT)
SAYINGS = ("no space left", "storagefull", "disk quota exceeded")


def is_full(error: BaseException) -> bool:
    """Was this error, or one that caused it, a full disk or an exhausted quota?"""
    seen: BaseException | None = error
    while seen is not None:
        if isinstance(seen, OSError) and seen.errno in FULL:
            return True
        if any(saying in str(seen).lower() for saying in SAYINGS):
            return True
        seen = seen.__cause__ or seen.__context__
    return False


def free_bytes(folder: Path) -> int:
    """Free space on the disk that `folder` is, or will be, on."""
    existing = next(parent for parent in (folder, *folder.parents) if parent.exists())
    return shutil.disk_usage(existing).free
