"""Finds a catalogue package that is already installed, so that nothing needs to be downloaded."""

import importlib.metadata
from pathlib import Path

from fedtune.catalogue.entry import Entry


def installed_root(entry: Entry) -> Path | None:
    """The site-packages folder that holds exactly the entry's version, or None.

    Only wheels: what an sdist carries beside its modules, and everything of npm, is not installed.
    """
    if entry.archive != "wheel":
        return None
    try:
        found = importlib.metadata.distribution(entry.package)
    except importlib.metadata.PackageNotFoundError:
        return None
    return Path(str(found.locate_file(""))) if found.version == entry.version else None
