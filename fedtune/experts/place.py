"""Whether a folder may be written to."""

from pathlib import Path

from fedtune.adapters.saved import CONFIG
from fedtune.errors import RunError


def refuse_taken(to: Path, *, force: bool) -> None:
    """Raise RunError where `to` holds anything, unless `force` is set and it is an adapter."""
    if not to.exists() or (to.is_dir() and not any(to.iterdir())):
        return
    if not force:
        raise RunError(f"{to} exists; choose another --to, or replace it by --force")
    if not (to / CONFIG).is_file():
        raise RunError(f"{to} holds no adapter, so --force leaves it alone; choose another --to")
