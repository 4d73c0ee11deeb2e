"""The Flower ServerApp: the round engine, whichever runtime gives it a Grid."""

import shlex
from pathlib import Path

from flwr.app import Context
from flwr.serverapp import Grid, ServerApp

from fedtune.errors import RecipeError
from fedtune.recipe import Recipe
from fedtune.recipe.load import load_recipe
from fedtune.split.copies import BodyCopies
from server.listener import Listener
from server.progress import ProgressBars
from server.run import run

_FOLDER = "run-folder"


def make_app(listener: Listener, copies: BodyCopies | None = None) -> ServerApp:
    """A ServerApp whose run is told to `listener`; `copies` are those of the body that its clients train, if any."""
    made = ServerApp()

    @made.main()  # type: ignore[untyped-decorator]
    def main(grid: Grid, context: Context) -> None:
        resume = bool(context.run_config.get("resume"))
        path = run(grid, _recipe(context), resume=resume, listener=listener, copies=copies)
        context.run_config[_FOLDER] = str(path)

    return made


def run_config(recipe: Recipe, *, resume: bool) -> dict[str, str | bool]:
    """The Flower run configuration that hands a resolved recipe to the ServerApp."""
    return {"recipe-json": recipe.model_dump_json(), "resume": resume}


def run_folder(context: Context) -> Path:
    """Where the run that `context` belonged to has written."""
    return Path(str(context.run_config[_FOLDER]))


def _recipe(context: Context) -> Recipe:
    """A resolved recipe from our own commands; a recipe's name or path, with overrides, from `flwr run`."""
    config = context.run_config
    if "recipe-json" in config:
        return Recipe.model_validate_json(str(config["recipe-json"]))
    if not config.get("recipe"):
        raise RecipeError("name a recipe: flwr run . --run-config 'recipe=\"movie-reviews\"'")
    try:
        overrides = shlex.split(str(config.get("set") or ""))
    except ValueError as error:
        raise RecipeError('write overrides as set="training.lr=1e-3 federation.rounds=5" in --run-config') from error
    return load_recipe(str(config["recipe"]), overrides)


app = ServerApp()


@app.main()  # type: ignore[untyped-decorator]
def main(grid: Grid, context: Context) -> None:
    """Run the recipe that Flower's run configuration names; progress goes to the log."""
    run(grid, _recipe(context), resume=bool(context.run_config.get("resume")), listener=ProgressBars())
