"""`fedtune compress`: a PEFT adapter as signs and a scale, tens of times smaller; and back."""

from pathlib import Path
from typing import TYPE_CHECKING, Literal

import click

if TYPE_CHECKING:
    from fedtune.experts.compressed import Head
    from fedtune.experts.expert import Expert
    from fedtune.experts.header import Coder
    from fedtune.experts.search import Tried
    from fedtune.recipe import CompressionSection

EPILOG = """\b
Examples:
  fedtune compress my-adapter --to small
  fedtune compress my-adapter --to small --density 0.1 --scale sigma --alpha 2
  fedtune compress small --to plain --restore
  fedtune compress my-adapter --to small --search --recipe my.toml --examples 500
"""


@click.command(epilog=EPILOG)
@click.argument("adapter", type=click.Path(path_type=Path))
@click.option("--to", required=True, type=click.Path(path_type=Path), help="The folder to write.")
@click.option(
    "--density",
    default=0.05,
    show_default=True,
    type=click.FloatRange(0, 1, min_open=True),
    help="The share of numbers that is kept.",
)
@click.option(
    "--scale",
    type=click.Choice(["least-squares", "sigma"]),
    default="least-squares",
    show_default=True,
    help="The magnitude of what is kept: its mean, or --alpha standard deviations of all numbers.",
)
@click.option("--alpha", default=1.0, show_default=True, type=click.FloatRange(0, min_open=True), help="For sigma.")
@click.option(
    "--threshold",
    type=click.Choice(["global", "tensor"]),
    default="global",
    show_default=True,
    help="Keep the share of all numbers together, or of each tensor, with a scale each.",
)
@click.option(
    "--coder",
    type=click.Choice(["rice", "entropy", "bitmask"]),
    default="rice",
    show_default=True,
    help="rice: small, read anywhere; entropy: 1 to 2 % smaller, needs constriction; bitmask: two bits a number.",
)
@click.option(
    "--head",
    type=click.Choice(["fp16", "as-is", "ternary"]),
    default="fp16",
    show_default=True,
    help="What becomes of a task head, which is no change of anything: half precision, nothing, or signs as well.",
)
@click.option("--restore", is_flag=True, help="Write the compressed ADAPTER as a plain PEFT folder.")
@click.option("--search", is_flag=True, help="Try densities and scales on rows of --recipe, and take the best.")
@click.option("--recipe", default="", help="With --search: the recipe that names model and data.")
@click.option("--set", "overrides", multiple=True, metavar="KEY=VALUE", help="Override a recipe key; may be repeated.")
@click.option("--examples", default=256, show_default=True, type=click.IntRange(1), help="With --search: test rows.")
@click.option("--force", is_flag=True, help="Replace an adapter that lies in --to.")
def compress(
    adapter: Path,
    to: Path,
    density: float,
    scale: Literal["least-squares", "sigma"],
    alpha: float,
    threshold: Literal["global", "tensor"],
    coder: "Coder",
    head: "Head",
    restore: bool,
    search: bool,
    recipe: str,
    overrides: tuple[str, ...],
    examples: int,
    force: bool,
) -> None:
    """Write the PEFT folder ADAPTER as a compressed one (ComPEFT), or the other way round with --restore.

    Takes LoRA, whose factors are compressed, and IA3, whose scales less one are.
    """
    # Torch takes seconds to import; --help does not wait for it.
    from fedtune.adapters.saved import WEIGHTS
    from fedtune.experts import compressed, expert
    from fedtune.experts.place import refuse_taken
    from fedtune.recipe import CompressionSection

    if search != bool(recipe):
        raise click.UsageError("--search takes the rows of a --recipe, and --recipe is for --search")
    refuse_taken(to, force=force)
    if restore:
        compressed.read_compressed(adapter).expert().write(to)
        click.echo(f"{to}: a plain PEFT folder")
        return
    plain = expert.read_plain(adapter)
    section = CompressionSection(density=density, scale=scale, alpha=alpha, threshold=threshold)
    if search:
        section = _searched(plain, recipe, overrides, examples, head)
    packed = compressed.compress(plain, section, coder=coder, head=head)
    size = packed.write(to)
    before = (adapter / WEIGHTS).stat().st_size
    error, cosine = expert.measure(plain.deltas, packed.expert().deltas)
    click.echo(
        f"{to}: {before:,} bytes became {size:,}, {before / size:.1f} times less\n"
        f"relative error {error:.3f}, cosine {cosine:.3f}"
    )


def _searched(
    plain: "Expert",
    recipe: str,
    overrides: tuple[str, ...],
    examples: int,
    head: "Head",
) -> "CompressionSection":
    """Print every setting with its score, and return the best."""
    from fedtune.experts.scoring import Bench
    from fedtune.experts.search import best_of, settings, try_all
    from fedtune.recipe.load import load_recipe

    bench = Bench.of(load_recipe(recipe, overrides), [plain.adapter()], examples=examples)
    before = bench.choose(plain.adapter())
    click.echo(f"{'density':>7}  {'scale':<13}  {'loss':>8}  {'right':>6}   ({len(bench.examples)} test rows)")
    click.echo(f"{'':>7}  {'uncompressed':<13}  {before.loss:8.4f}  {before.accuracy:6.1%}")
    tried: list[Tried] = []
    for one in try_all(plain, lambda made: bench.choose(made.adapter()), settings(), head=head):
        tried.append(one)
        click.echo(f"{one.section.density:7g}  {one.scale:<13}  {one.score.loss:8.4f}  {one.score.accuracy:6.1%}")
    best = best_of(tried)
    click.echo(f"the best: density {best.section.density:g}, scale {best.scale}")
    return best.section
