"""`fedtune export`: a run's adapter or merged model, for others to load."""

from pathlib import Path
from typing import TYPE_CHECKING, Literal

import click

if TYPE_CHECKING:
    from fedtune.recipe import Recipe
    from fedtune.runs.export import Exported

EPILOG = """\b
Examples:
  fedtune export runs/movie-reviews --to my-adapter
  fedtune export runs/movie-reviews --to my-adapter --checkpoint 12 --force
  fedtune export runs/movie-reviews --to my-model --merged
  fedtune export ~/.local/state/fedtune/kept/RUN/CLIENT --to my-own-adapter
"""


@click.command(epilog=EPILOG)
@click.argument("run", type=click.Path(path_type=Path))
@click.option("--to", required=True, type=click.Path(path_type=Path), help="The folder to write.")
@click.option(
    "--checkpoint",
    default="",
    metavar="WHICH",
    help="best, latest or a round's number; default best, or latest where no round was evaluated.",
)
@click.option(
    "--format",
    "format_",
    type=click.Choice(["peft", "merged"]),
    default="peft",
    show_default=True,
    help="peft: the adapter alone, or the weights of kind full, for the base model; merged: the whole model.",
)
@click.option("--merged", is_flag=True, help="Short for --format merged.")
@click.option("--force", is_flag=True, help="Replace an earlier export.")
def export(run: Path, to: Path, checkpoint: str, format_: Literal["peft", "merged"], merged: bool, force: bool) -> None:
    """Write the adapter of the run folder RUN in PEFT's format, or the base model with the adapter folded in.

    RUN may be a folder in which one client keeps an adapter of its own (method fedsa-lora).
    """
    # Torch and transformers take seconds to import; --help does not wait for them.
    from fedtune.runs.export import export as export_run
    from fedtune.runs.export import export_kept
    from fedtune.runs.folder import RunFolder
    from fedtune.runs.kept import ABOUT, recipe_of

    wanted: Literal["peft", "merged"] = "merged" if merged else format_
    if (run / ABOUT).is_file():
        recipe = recipe_of(run)
        done = export_kept(run, to, format_=wanted, force=force)
    else:
        folder = RunFolder.open(run)
        recipe = folder.recipe
        done = export_run(folder, to, checkpoint=checkpoint, format_=wanted, force=force)
    what = "merged model" if done.format == "merged" else "adapter"
    click.echo(f"{done.path}: the {what} after round {done.round}. Load it in Python:\n")
    click.echo(loading_lines(done, recipe))


def loading_lines(done: "Exported", recipe: "Recipe") -> str:
    """The Python that loads what was exported."""
    from fedtune.adapters.saved import PROMPT, REPLACED
    from fedtune.models.source import find_model
    from fedtune.models.task import TASKS

    auto = TASKS[recipe.model.task].auto_class
    if done.format == "merged":
        return f'  from transformers import {auto}\n  model = {auto}.from_pretrained("{done.path}")'
    if (done.path / PROMPT).is_file():
        return (
            "  from fedtune.split.exported import load_exported\n"
            f'  model = load_exported("{done.path}")  # called with a batch, as a model of transformers is'
        )
    base = find_model(recipe.model.name, recipe.model.revision).folder
    labels = f", num_labels={len(recipe.model.labels)}" if recipe.model.labels else ""
    if (done.path / REPLACED).is_file():
        return (
            f"  from safetensors.torch import load_file; from transformers import {auto}\n"
            f'  model = {auto}.from_pretrained("{base}"{labels})\n'
            f'  model.load_state_dict(load_file("{done.path / REPLACED}"), strict=False)'
        )
    return (
        f"  from peft import PeftModel; from transformers import {auto}\n"
        f'  base = {auto}.from_pretrained("{base}"{labels})\n'
        f'  model = PeftModel.from_pretrained(base, "{done.path}")'
    )
