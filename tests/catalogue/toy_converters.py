"""Converters of the toy packages that the catalogue's tests build."""

import os
import time
from pathlib import Path


def copy_text(unpacked: Path, out: Path) -> None:
    """Copies every text file and notes, beside the cache, that a conversion ran."""
    _note_run()
    for path in unpacked.rglob("toy*.txt"):
        (out / path.name).write_bytes(path.read_bytes())


def copy_slowly(unpacked: Path, out: Path) -> None:
    """Writes one file, says so, and takes its time for the rest."""
    (out / "early.txt").write_text("half a conversion")
    _note_run()
    time.sleep(float(os.environ.get("TOY_SECONDS", "0")))
    (out / "late.txt").write_text("the other half")


def fail(unpacked: Path, out: Path) -> None:
    """Breaks after its first file."""
    (out / "early.txt").write_text("half a conversion")
    raise RuntimeError("the converter has a bug")


def fill_disk(unpacked: Path, out: Path) -> None:
    """Meets the kernel's own `No space left on device`."""
    (out / "early.txt").write_text("half a conversion")
    with open("/dev/full", "wb") as full:
        full.write(b"x" * 100_000)


def _note_run() -> None:
    with Path(os.environ["TOY_RUNS"]).open("a") as runs:
        runs.write("run\n")
