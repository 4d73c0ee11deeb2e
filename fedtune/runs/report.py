"""`report.html`: the page of a run, written into its folder or wherever it is wanted."""

from pathlib import Path

from fedtune.runs.atomic import storage_errors, write_atomically
from fedtune.runs.folder import RunFolder
from fedtune.runs.page import render_page

REPORT_NAME = "report.html"


def write_report(folder: RunFolder, output: Path | None = None) -> Path:
    """Write the page, by default as `report.html` in the run folder, and return where it is.

    Raises RunError where the run's rounds are damaged or the file cannot be written.
    """
    path = output or folder.path / REPORT_NAME
    page = render_page(folder)
    with storage_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, page.encode())
    return path
