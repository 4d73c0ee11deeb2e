"""`fedtune init`: writes a commented recipe to start from."""

import re
from pathlib import Path

import click

EPILOG = """\b
Examples:
  fedtune init
  fedtune init reviews.toml --model minilm --data reviews.csv
  fedtune init chat.toml --task causal-lm
"""

TASK_NAMES = ("sequence-classification", "causal-lm", "image-classification")


@click.command(epilog=EPILOG)
@click.argument("file", default="recipe.toml", type=click.Path(dir_okay=False, path_type=Path))
@click.option("--task", type=click.Choice(TASK_NAMES), help="What the model is to learn; by default what it is for.")
@click.option("--model", default="", help="A name of the catalogue, a folder or a Hub id; by default one that fits.")
@click.option("--data", default="", help="A packaged set, a file, a folder or a Hub id; by default one that fits.")
@click.option("--force", is_flag=True, help="Overwrite FILE.")
def init(file: Path, task: str | None, model: str, data: str, force: bool) -> None:
    """Write a commented recipe into FILE (recipe.toml); it runs as it is.

    Keys that people change stand there, all others as comments with their defaults. Nothing is asked.
    """
    from fedtune.errors import RecipeError
    from fedtune.recipe.template import TASKS, template

    name = re.sub(r"[^A-Za-z0-9._-]+", "-", file.stem).strip("-._")[:64] or "run"
    chosen = next((known for known in TASKS if known == task), None)
    text = template(chosen, model, data, name=name)
    try:
        with file.open("w" if force else "x", encoding="utf-8") as out:
            out.write(text)
    except FileExistsError as error:
        raise RecipeError(f"{file} is there already; name another file, or overwrite it by --force") from error
    except FileNotFoundError as error:
        raise RecipeError(f"there is no folder {file.parent}; make it first") from error
    click.echo(f"wrote {file}\nnext: fedtune recipe check {file}\n      fedtune simulate {file}")
