"""`fedtune audit run`: attack a recipe in a simulation, and hold its ε against what the attack shows."""

import sys
from pathlib import Path

import click

EPILOG = """\b
Examples:
  fedtune audit run private.toml
  fedtune audit run private.toml --canaries 400 --set federation.rounds=5
  fedtune audit run private.toml --out audit.json
"""


@click.command(epilog=EPILOG)
@click.argument("recipe")
@click.option("--canaries", default=100, show_default=True, type=click.IntRange(2, 9999), help="How many to prepare.")
@click.option(
    "--confidence",
    default=0.95,
    show_default=True,
    type=click.FloatRange(0.5, 0.9999),
    help="With which all bounds that decide hold together.",
)
@click.option("--out", type=click.Path(path_type=Path, dir_okay=False), help="Write the JSON there as well.")
@click.option("--set", "overrides", multiple=True, metavar="KEY=VALUE", help="Override a recipe key; may be repeated.")
@click.option("--workers", type=click.IntRange(1), default=1, show_default=True, help="Processes for the clients.")
def run(
    recipe: str, canaries: int, confidence: float, out: Path | None, overrides: tuple[str, ...], workers: int
) -> None:
    """Simulate RECIPE with canaries, attack it, and compare a lower bound on ε with what is claimed.

    Canaries are rows with wrong labels (privacy.unit = "example") or clients with random updates ("client"); a secret
    fair coin puts each in or leaves it out, and the attack says which. The run folder, RUN-audit, keeps audit.json. The
    exit code is 1 where anything speaks against the claim. An audit that is passed proves nothing: it has not found
    anything.
    """
    from rich.console import Console

    from fedtune.recipe.load import load_recipe
    from server.progress import ProgressBars
    from simulations.audit.estimate import seconds_expected
    from simulations.audit.run import Prepared, run_audit
    from simulations.audit.show import attack_bar, show
    from simulations.sharing import sharing

    console = Console()
    prepared = Prepared.of(load_recipe(recipe, overrides), canaries)
    real = [name for name in prepared.canaries.names if name not in prepared.canaries.coins]
    console.print(sharing(prepared.recipe, len(real)), highlight=False, soft_wrap=True)
    console.print(f"about {seconds_expected(prepared, workers):.0f} s on this machine", highlight=False)
    with ProgressBars() as bars, attack_bar() as told:
        result, folder = run_audit(prepared, confidence=confidence, workers=workers, listener=bars, told=told)
    if out is not None:
        result.write(out)
    show(result, folder, console)
    sys.exit(0 if result.passed else 1)
