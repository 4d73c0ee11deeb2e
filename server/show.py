"""The end of a run, for the terminal: what was learned, sent and spent, and where it lies."""

from pathlib import Path

from rich.console import Console

from fedtune.runs.end_table import render
from fedtune.runs.folder import RunFolder
from fedtune.runs.summary import summarise


def show_end(path: Path, console: Console) -> None:
    """Print the summary of a finished run and the paths of its parts."""
    folder = RunFolder.open(path)
    console.print(render(summarise(folder)))
    for what, where in (
        ("run folder", path),
        ("adapter", folder.adapter_path),
        ("picture", folder.plots_path / "summary.png"),
        ("report", f"fedtune report {path}"),
        ("export", f"fedtune export {path} --to DIR"),
    ):
        console.print(f"  {what:<11} {where}", highlight=False, soft_wrap=True)
