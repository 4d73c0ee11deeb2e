"""The cache folder, and which models and data sets of the catalogue are in it."""

import os
from pathlib import Path

from fedtune.catalogue import ENTRIES, Entry
from fedtune.catalogue.cache import cache_folder, converted_folder
from fedtune.catalogue.disk import free_bytes
from fedtune.cli.checks.finding import Finding, gib


def check_store() -> list[Finding]:
    """Where packaged models and data sets live, and which are here."""
    return [_folder(cache_folder()), *map(_entry, ENTRIES)]


def _folder(folder: Path) -> Finding:
    existing = next(parent for parent in (folder, *folder.parents) if parent.exists())
    if not existing.is_dir() or not os.access(existing, os.W_OK):
        detail = f"{folder} cannot be written: name another folder in FEDTUNE_CACHE"
        return Finding("cache", "problem", detail, str(folder))
    return Finding("cache", "good", f"{folder}, {gib(free_bytes(folder))} free", str(folder))


def _entry(entry: Entry) -> Finding:
    if converted_folder(entry).is_dir():
        return Finding(entry.name, "good", entry.title, True)
    megabytes = max(1, round(entry.download_bytes / 1e6))
    return Finding(entry.name, "absent", f"{entry.title}; `fedtune fetch {entry.name}` ({megabytes} MB)", False)
