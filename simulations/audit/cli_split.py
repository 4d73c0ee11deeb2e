"""`fedtune audit split`: read rows and labels off what a split model's clients send."""

from pathlib import Path
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from simulations.audit.split.result import Leak

EPILOG = """\b
Examples:
  fedtune audit split my-split.toml
  fedtune audit split my-split.toml --quick --set split.activations=int8
  fedtune audit split my-split.toml --set split.noise_multiplier=0.1 --public tweets --out leaks.json
"""


@click.command(epilog=EPILOG)
@click.argument("recipe")
@click.option("--quick", is_flag=True, help="Fewer rows, and no fit of images: under a minute on one core.")
@click.option("--public", default="", metavar="SOURCE", help="What the attacker learns on; default other rows.")
@click.option("--out", type=click.Path(path_type=Path, dir_okay=False), help="Write the JSON there.")
@click.option("--picture", type=click.Path(path_type=Path, dir_okay=False), help="Draw recovery by depth, a PNG.")
@click.option("--set", "overrides", multiple=True, metavar="KEY=VALUE", help="Override a recipe key; may be repeated.")
def split(
    recipe: str, quick: bool, public: str, out: Path | None, picture: Path | None, overrides: tuple[str, ...]
) -> None:
    """Attack RECIPE's split as its coordinator could, at every depth, and say how much of private rows comes back.

    Activations: every token is looked up or named by a probe, every image decoded, and fitted through the public head.
    Gradients at the body's output: labels are matched through the known tail, and by clusters. Codec and noise are the
    recipe's. A stronger attacker recovers more: what is printed is a lower bound on the leak.
    """
    from rich.console import Console

    from fedtune.recipe.load import load_recipe
    from simulations.audit.split.picture import draw
    from simulations.audit.split.run import FULL, QUICK, audit_split
    from simulations.audit.split.show import show

    console, waiting = Console(), Console(stderr=True)

    def told(leak: "Leak") -> None:
        if waiting.is_terminal:
            waiting.print(f"depth {leak.head_layers}: {leak.attack}", style="dim")

    result = audit_split(load_recipe(recipe, overrides), QUICK if quick else FULL, public=public, told=told)
    if out is not None:
        result.write(out)
    if picture is not None:
        from fedtune.runs.atomic import storage_errors, write_atomically

        with storage_errors(picture):
            write_atomically(picture, draw([result]))
    show(result, console)
