"""`fedtune merge`: several saved adapters, compressed or plain, as one."""

from pathlib import Path
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from collections.abc import Mapping

    from fedtune.adapters.saved import SavedAdapter
    from fedtune.experts.compose import Method
    from fedtune.experts.scoring import Bench

EPILOG = """\b
Examples:
  fedtune merge one two --to both
  fedtune merge one two --to both --weight 0.7 --weight 0.3
  fedtune merge one two three --to all --method ties --density 0.2
  fedtune merge one two three --to fitted --method lorahub --recipe my.toml --examples 32
"""


@click.command(epilog=EPILOG)
@click.argument("adapters", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option("--to", required=True, type=click.Path(path_type=Path), help="The folder to write: a plain PEFT folder.")
@click.option(
    "--method",
    type=click.Choice(["task-arithmetic", "ties", "lorahub"]),
    default="task-arithmetic",
    show_default=True,
    help="The weighted sum of the changes; TIES of the factors; or the sum with weights found on examples.",
)
@click.option(
    "--weight",
    "weights",
    multiple=True,
    type=float,
    metavar="W",
    help="One for each adapter, in their order; default 1/n, for ties 1.",
)
@click.option(
    "--density",
    default=0.2,
    show_default=True,
    type=click.FloatRange(0, 1, min_open=True),
    help="ties: the share of numbers that each adapter is trimmed to.",
)
@click.option(
    "--recipe", default="", help="lorahub: the recipe that names model and data; others: to score the result."
)
@click.option("--set", "overrides", multiple=True, metavar="KEY=VALUE", help="Override a recipe key; may be repeated.")
@click.option("--examples", default=32, show_default=True, type=click.IntRange(1), help="lorahub: test rows to fit to.")
@click.option("--steps", default=40, show_default=True, type=click.IntRange(1), help="lorahub: mixtures to try.")
@click.option("--l1", default=0.05, show_default=True, type=click.FloatRange(0), help="lorahub: the price of weights.")
@click.option("--force", is_flag=True, help="Replace an adapter that lies in --to.")
def merge(
    adapters: tuple[Path, ...],
    to: Path,
    method: "Method",
    weights: tuple[float, ...],
    density: float,
    recipe: str,
    overrides: tuple[str, ...],
    examples: int,
    steps: int,
    l1: float,
    force: bool,
) -> None:
    """Compose the saved LoRA ADAPTERS of one base model into one.

    Each may be compressed (fedtune compress) or a plain PEFT folder.
    """
    # Torch takes seconds to import; --help does not wait for it.
    from fedtune.adapters.export import write_adapter
    from fedtune.experts.compose import Composer
    from fedtune.experts.place import refuse_taken
    from fedtune.experts.scoring import Bench
    from fedtune.recipe.load import load_recipe

    if weights and (method == "lorahub" or len(weights) != len(adapters)):
        raise click.UsageError("--weight is given once for each adapter, and not with lorahub, which finds them")
    if method == "lorahub" and not recipe:
        raise click.UsageError("lorahub finds the weights on rows of a --recipe")
    refuse_taken(to, force=force)
    composer = Composer(adapters)
    loaded = load_recipe(recipe, overrides) if recipe else None
    bench = Bench.of(loaded, composer.adapters, examples=examples) if loaded else None
    chosen = weights or (1.0 if method == "ties" else 1 / len(adapters),) * len(adapters)
    if method == "lorahub" and bench and loaded:
        found = composer.lorahub(bench, steps=steps, seed=loaded.run.seed, l1=l1)
        chosen = found.weights
        click.echo(
            f"loss on {len(bench.examples)} examples: {found.start_loss:.4f} with equal weights, {found.loss:.4f} with "
            + ", ".join(f"{weight:.3f}" for weight in chosen)
        )
    merged = composer.ties(chosen, density) if method == "ties" else composer.task_arithmetic(chosen)
    if bench:
        _print_scores(bench, {**dict(zip(map(str, adapters), composer.adapters, strict=True)), "merged": merged})
    write_adapter(merged, to)
    click.echo(f"{to}: a LoRA adapter of rank {max(merged.ranks().values())}, by {method}")


def _print_scores(bench: "Bench", adapters: "Mapping[str, SavedAdapter]") -> None:
    """How each adapter does on the rows that nothing was fitted to."""
    click.echo(f"on {len(bench.rest)} other test rows:")
    for name, adapter in adapters.items():
        score = bench.report(adapter)
        click.echo(f"  {name}: loss {score.loss:.4f}, {score.accuracy:.1%} right")
