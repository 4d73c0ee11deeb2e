"""`fedtune bytes`: what a recipe will send, before anything runs."""

from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from rich.table import Table

    from server.plan_bytes import BytesPlan

EPILOG = """\b
Examples:
  fedtune bytes movie-reviews
  fedtune bytes movie-reviews --set method=fedit --set 'compression.upload=["ternary", "entropy"]'
"""


@click.command(name="bytes", epilog=EPILOG)
@click.argument("recipe")
@click.option("--set", "overrides", multiple=True, metavar="KEY=VALUE", help="Override a recipe key; may be repeated.")
def bytes_command(recipe: str, overrides: tuple[str, ...]) -> None:
    """Print what RECIPE will send, up and down: a client's round, what its first one costs beside that, the whole run.

    The messages are made of the recipe's own model and adapter, encoded as they will be, and measured: headers, the
    task head, broadcast factors and, under privacy, the head of the ledger are in. Beside it stands FedIT of rank 32 on
    the same layers, in fp32 and bf16; of a split model instead what one row's activations and gradients take, which are
    in none of the sums.
    """
    from rich.console import Console

    from fedtune.recipe.load import load_recipe
    from server.plan_bytes import plan_bytes

    Console().print(render(plan_bytes(load_recipe(recipe, overrides))))


def render(plan: "BytesPlan") -> "Table":
    """The plan as a table for a terminal."""
    from rich.table import Table

    from fedtune.runs.words import bytes_text

    table = Table(title=f"{plan.clients:,.4g} clients a round, {plan.rounds} rounds", title_justify="left")
    for heading in ("", "up", "down"):
        table.add_column(heading, justify="left" if not heading else "right")
    rows = [
        ("one client, one round", plan.round.up, plan.round.down),
        ("and in its first round", plan.first.up, plan.first.down),
        ("one federated evaluation of a client", plan.evaluation.up, plan.evaluation.down),
        ("the whole run, all clients" + ", without activations" * bool(plan.row), plan.run.up, plan.run.down),
    ]
    if plan.row:
        rows.append(("activations and gradients of one row, one pass", plan.row.up, plan.row.down))
    if plan.fedit:
        rows.append(("FedIT rank 32 in fp32, one client, one round", plan.fedit.up, plan.fedit.down))
        rows.append(("the same in bf16", plan.fedit.up // 2, plan.fedit.down // 2))
    for name, up, down in rows:
        table.add_row(name, bytes_text(up), bytes_text(down))
    if plan.fedit:
        ratio = (f"{plan.fedit.up / plan.round.up:,.1f}x", f"{plan.fedit.down / plan.round.down:,.1f}x")
        table.add_row("less than FedIT in fp32", *ratio)
    if plan.row:
        table.caption = "How many rows pass in a round, and what that sums to at each cut, says fedtune split plan."
        table.caption_justify = "left"
    return table
