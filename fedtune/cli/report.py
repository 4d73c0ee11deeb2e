"""`fedtune report`: one HTML page about a run."""

import webbrowser
from pathlib import Path

import click

EPILOG = """\b
Examples:
  fedtune report runs/movie-reviews
  fedtune report runs/movie-reviews --output review.html --open
"""


@click.command(epilog=EPILOG)
@click.argument("run", type=click.Path(path_type=Path))
@click.option(
    "--output", type=click.Path(path_type=Path, dir_okay=False), help="Where to write it; default RUN/report.html."
)
@click.option("--open", "show", is_flag=True, help="Open it in the browser.")
def report(run: Path, output: Path | None, show: bool) -> None:
    """Write one self-contained HTML page about the run folder RUN.

    Scores before and after, learning curves, clients, traffic, times, updates that did not count and why, the
    recipe and the environment. The page loads nothing from elsewhere; a run that still goes on can be reported too.
    """
    from fedtune.runs.folder import RunFolder
    from fedtune.runs.report import write_report

    path = write_report(RunFolder.open(run), output)
    click.echo(path)
    if show:
        webbrowser.open(path.resolve().as_uri())
