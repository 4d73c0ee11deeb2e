"""Where books are kept, and under which name a data set is known that no policy names."""

import hashlib
import os
from pathlib import Path


def default_folder() -> Path:
    """Where books are kept unless it is said otherwise: `$XDG_STATE_HOME/fedtune/budget`."""
    return Path(os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state") / "fedtune" / "budget"


def name_of(data: Path) -> str:
    """The name of a data set that no policy names: a print of where it lies, links followed.

    Rows that are moved or copied get another one, which is why a policy gives them a name of their own.
    """
    return "path-" + hashlib.sha256(os.fsencode(data.resolve())).hexdigest()[:24]


def known(folder: Path) -> list[str]:
    """The data sets that have a book in a folder, by name."""
    names = {path.stem for pattern in ("*.jsonl", "*.head") for path in folder.glob(pattern)}
    return sorted(name for name in names if not name.startswith("."))
