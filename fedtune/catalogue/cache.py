"""Where converted models and data sets live, and which of them are finished."""

import os
import sys
from pathlib import Path

from fedtune.catalogue.entry import Entry


def cache_folder() -> Path:
    """`FEDTUNE_CACHE`, or `fedtune` in the platform's folder for caches; it need not exist yet."""
    if named := os.environ.get("FEDTUNE_CACHE"):
        return Path(named).expanduser()
    return _platform_cache() / "fedtune"


def converted_folder(entry: Entry) -> Path:
    """Where the converted entry is, or will be: the folder exists only once it is complete."""
    return cache_folder() / entry.kind / entry.folder


def archive_folder(entry: Entry) -> Path:
    """Where the entry's verified archive waits for its conversion; shared by entries of one archive."""
    return cache_folder() / "archives" / entry.sha256


def work_folder(entry: Entry) -> Path:
    """Scratch space of one fetch; whatever a killed process left there is worthless."""
    return cache_folder() / "work" / entry.sha256[:16]


def lock_file(entry: Entry) -> Path:
    """One lock an archive, so that two fetches neither download nor convert the same thing twice."""
    return cache_folder() / "locks" / f"{entry.sha256[:16]}.lock"


def _platform_cache() -> Path:
    if sys.platform == "win32":
        return Path(os.environ.get("LOCALAPPDATA", Path.home() / "AppData" / "Local"))
    if sys.platform == "darwin":
        return Path.home() / "Library" / "Caches"
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
