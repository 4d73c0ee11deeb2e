"""Ready recipes: TOML files that installed packages offer by name (entry points of the group `fedtune.recipes`)."""

import importlib
import importlib.util
from collections.abc import Iterator
from importlib.metadata import entry_points
from pathlib import Path as File

from fedtune.errors import RecipeError
from fedtune.recipe.suggest import did_you_mean

GROUP = "fedtune.recipes"


def ready_recipes() -> dict[str, File]:
    """The ready recipes by name, sorted; the first package that offers a name has it."""
    found: dict[str, File] = {}
    for folder in _folders():
        for file in sorted(folder.glob("*.toml")):
            found.setdefault(file.stem, file)
    return dict(sorted(found.items()))


def description(file: File) -> str:
    """What a recipe says of itself: its first line, a comment."""
    with file.open(encoding="utf-8") as text:
        return text.readline().lstrip("# ").rstrip() or "(no description)"


def find_recipe(path_or_name: str) -> File:
    """The file that is meant: a path that exists, or else a ready recipe; raises RecipeError where there is neither."""
    path = File(path_or_name).expanduser()
    if path.is_file():
        return path
    if path.is_dir():
        raise RecipeError(f"{path_or_name} is a folder; name the TOML file in it")
    ready = ready_recipes()
    if path_or_name in ready:
        return ready[path_or_name]
    if path.suffix == ".toml" or len(path.parts) > 1:
        raise RecipeError(f"there is no file {path_or_name}{_beside(path, path.suffix or '.toml')}")
    hint = did_you_mean(path_or_name, ready) or _beside(path, ".toml") or "."
    names = ", ".join(ready) or "none is installed"
    raise RecipeError(f"there is no file or ready recipe '{path_or_name}'{hint} Ready recipes: {names}")


def _beside(path: File, suffix: str) -> str:
    files = (file.name for file in path.parent.glob(f"*{suffix}")) if path.parent.is_dir() else ()
    return did_you_mean(path.name, files)


def _folders() -> Iterator[File]:
    for entry in entry_points(group=GROUP):
        spec = importlib.util.find_spec(entry.value)
        for folder in (spec.submodule_search_locations or ()) if spec else ():
            yield File(folder)
