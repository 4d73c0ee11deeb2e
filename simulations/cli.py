"""`fedtune simulate`."""

from pathlib import Path

import click
from rich.console import Console


@click.command(epilog="Example:  fedtune simulate movie-reviews --set federation.rounds=5 --set run.name=first")
@click.argument("recipe")
@click.option("--set", "overrides", multiple=True, metavar="KEY=VALUE", help="Override a recipe key; may be repeated.")
@click.option(
    "--workers",
    type=click.IntRange(1),
    help="Processes that share the clients of a round; default one a core or, with --ray, a CPU or GPU.",
)
@click.option(
    "--cache-gb",
    type=float,
    metavar="GB",
    help="Memory of all processes together for what frozen layers make of rows; 0 keeps nothing. Default a quarter of "
    "the free memory.",
)
@click.option(
    "--cache-folder",
    type=click.Path(path_type=Path),
    help="Keep rows that have no room in memory on the disk of this folder, in files that end with the run.",
)
@click.option(
    "--ray",
    metavar="ADDRESS",
    help="Hand clients to actors of a Ray cluster: auto, HOST:PORT, or local to start one here; needs fedtune[ray].",
)
@click.option("--resume", is_flag=True, help="Go on with a run that was stopped or killed.")
def simulate(
    recipe: str,
    overrides: tuple[str, ...],
    workers: int | None,
    cache_gb: float | None,
    cache_folder: Path | None,
    ray: str | None,
    resume: bool,
) -> None:
    """Run RECIPE with simulated clients on this machine.

    RECIPE is a TOML file or the name of a ready recipe (`fedtune recipe list`). All clients share one copy of the
    base model; the result is the same as with real clients. The run folder holds the adapter, plots and a report.
    """
    from fedtune.recipe.load import load_recipe
    from server.progress import ProgressBars
    from server.show import show_end
    from simulations.simulate import simulate as run

    loaded = load_recipe(recipe, overrides)
    with ProgressBars() as bars:
        path = run(
            loaded,
            resume=resume,
            listener=bars,
            workers=workers,
            cache_gb=cache_gb,
            cache_folder=cache_folder,
            ray=ray,
            expect=True,
        )
    show_end(path, Console())
