"""`fedtune coordinator`."""

from pathlib import Path

import click

DEFAULT_PORT = 7443


@click.command(
    epilog="Example:  fedtune coordinator my.toml --keys keys --host 0.0.0.0   (make the keys with `fedtune keys init`)"
)
@click.argument("recipe")
@click.option("--keys", type=click.Path(path_type=Path), help="The key folder that `fedtune keys init` made.")
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen on; 0.0.0.0 for all.")
@click.option(
    "--port", default=DEFAULT_PORT, show_default=True, type=click.IntRange(0, 65535), help="0 takes a free one."
)
@click.option("--insecure", is_flag=True, help="No encryption and no identities; loopback only, for trying things out.")
@click.option("--set", "overrides", multiple=True, metavar="KEY=VALUE", help="Override a recipe key; may be repeated.")
@click.option("--resume", is_flag=True, help="Go on with a run that was stopped or killed.")
def coordinator(
    recipe: str, keys: Path | None, host: str, port: int, insecure: bool, overrides: tuple[str, ...], resume: bool
) -> None:
    """Start a coordinator for RECIPE and wait for clients.

    It sends adapter states, never data or code, and adds up the updates that come back. The run folder holds every
    finished round: a coordinator that was killed goes on with --resume, and its clients reconnect by themselves.
    """
    if keys is None and not insecure:
        raise click.UsageError("name the key folder with --keys DIR, or try things out on loopback with --insecure")
    from rich.console import Console

    from fedtune.recipe.load import load_recipe
    from server.deploy import serve
    from server.progress import ProgressBars
    from server.show import show_end

    loaded = load_recipe(recipe, overrides)
    with ProgressBars() as bars:
        path = serve(loaded, address=f"{host}:{port}", keys=None if insecure else keys, resume=resume, listener=bars)
    show_end(path, Console())
