"""`fedtune recipe`: check, show and list recipes."""

import click

CHECK_EPILOG = """\b
Examples:
  fedtune recipe check my.toml
  fedtune recipe check movie-reviews --set training.lr=1e-3 --set 'model.labels=["ham", "spam"]'
  fedtune recipe check my.toml --toml > resolved.toml
"""


@click.group(epilog="Example:  fedtune recipe check my.toml")
def recipe() -> None:
    """Check, show and list recipes."""


@recipe.command(epilog=CHECK_EPILOG)
@click.argument("recipe")
@click.option("--set", "overrides", multiple=True, metavar="KEY=VALUE", help="Override a recipe key; may be repeated.")
@click.option("--toml", "as_file", is_flag=True, help="Write the resolved recipe as a commented TOML file instead.")
def check(recipe: str, overrides: tuple[str, ...], as_file: bool) -> None:
    """Check RECIPE and show every key of it, with where its value comes from.

    RECIPE is a TOML file or the name of a ready recipe. Each mistake is said with its line, what is wrong and what is
    allowed. Nothing is read but the recipe: no model, no data.
    """
    from rich.console import Console

    from fedtune.cli.resolved import render
    from fedtune.recipe.dump import dump
    from fedtune.recipe.load import read_recipe

    loaded = read_recipe(recipe, overrides)
    if as_file:
        click.echo(dump(loaded.recipe), nl=False)
    else:
        Console().print(render(loaded), soft_wrap=True)
    for sentence in loaded.advice:
        Console(stderr=True).print(f"note: {sentence}", style="yellow", markup=False, highlight=False, soft_wrap=True)


@recipe.command("list", epilog="Example:  fedtune recipe list")
def list_() -> None:
    """List the ready recipes; each runs by its name."""
    from rich.console import Console
    from rich.table import Table

    from fedtune.recipe.ready import description, ready_recipes

    table = Table.grid(padding=(0, 2))
    for name, file in ready_recipes().items():
        table.add_row(f"[bold]{name}[/]", description(file))
    console = Console()
    console.print(table)
    console.print("\nfedtune recipe show NAME prints one, fedtune simulate NAME runs it", style="dim")


@recipe.command(epilog="Example:  fedtune recipe show movie-reviews > my.toml")
@click.argument("name")
def show(name: str) -> None:
    """Print the ready recipe NAME as it is written, to read or to start from."""
    from fedtune.recipe.ready import find_recipe

    click.echo(find_recipe(name).read_text(encoding="utf-8"), nl=False)
