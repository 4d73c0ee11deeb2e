"""`fedtune split`: what a model that is cut between client and coordinator will cost."""

import json
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from fedtune.recipe import Recipe

EPILOG = """\b
Examples:
  fedtune split plan mnist-sfprompt
  fedtune split plan mnist-sfprompt --memory 200 --set split.activations=int8
  fedtune split plan my.toml --rows 500 --tokens 64 --json
  fedtune split plan my.toml --set split.noise_multiplier=10 --set split.delta=1e-5
"""
USUAL_ROWS = 100
"""Rows of a client where neither the recipe nor `--rows` says."""


@click.group(epilog=EPILOG)
def split() -> None:
    """Plan a split model: the client holds its first and last layers, the coordinator the body."""


@split.command(epilog=EPILOG)
@click.argument("recipe")
@click.option("--set", "overrides", multiple=True, metavar="KEY=VALUE", help="Override a recipe key; may be repeated.")
@click.option("--rows", type=click.IntRange(1), help="Rows of a client; default the mean of the recipe's partition.")
@click.option("--tokens", type=click.IntRange(1), help="Tokens of a text; default model.max_length.")
@click.option("--memory", type=click.FloatRange(0, min_open=True), metavar="MB", help="What a client has for training.")
@click.option("--json", "as_text", is_flag=True, help="Print JSON instead of tables.")
def plan(
    recipe: str, overrides: tuple[str, ...], rows: int | None, tokens: int | None, memory: float | None, as_text: bool
) -> None:
    """Print what every cut of RECIPE's model costs a client: memory, FLOPs, bytes; and recommend one.

    All heads for the recipe's tail, and all tails for its head, beside federated full fine-tuning and LoRA, with the
    number of sample passes a round from which those send less; and what noise on the activations promises. Of the model
    nothing but its config is read: it need not fit into this machine, nor be here whole.
    """
    from rich.console import Console

    from fedtune.cli.split_table import show
    from fedtune.recipe.load import load_recipe
    from fedtune.split.plan import as_json, plan_split
    from fedtune.split.recommend import recommend
    from fedtune.split.release import as_json as promised
    from fedtune.split.release import release_of

    loaded, counted = _counted(load_recipe(recipe, overrides), rows)
    planned = plan_split(loaded, rows=counted, tokens=tokens)
    best = recommend(planned, tail=loaded.split.tail_layers, limit=None if memory is None else memory * 1e6)
    release = release_of(loaded, rows=counted)
    if as_text:
        chosen = {"cut": as_json(planned)["cuts"][planned.cuts.index(best.cut)]["cut"]}
        more = {"recommended": chosen | {"reason": best.reason}, "release": release and promised(release)}
        click.echo(json.dumps({**as_json(planned), **more}, indent=2))
        return
    show(planned, best, Console(), release=release)


def _counted(recipe: "Recipe", rows: int | None) -> "tuple[Recipe, int]":
    """The recipe with its labels, and the rows of a client, as far as its data are at hand."""
    from fedtune.data.table import tables, with_labels
    from fedtune.errors import DataError

    if not recipe.data.source or (rows is not None and recipe.model.labels):
        return recipe, rows or USUAL_ROWS
    try:
        count = len(tables(recipe.data, recipe.model, recipe.run.seed).train)
    except DataError:
        return recipe, rows or USUAL_ROWS
    return with_labels(recipe), rows or max(1, count // recipe.data.partition.clients)
