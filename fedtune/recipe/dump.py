"""Writes a recipe as commented TOML: whole, to keep with a run, or with the usual values commented out."""

import textwrap
from collections.abc import Callable, Iterator
from typing import Any

from fedtune.recipe.allowed import as_toml
from fedtune.recipe.keys import field_at, leaf_keys, section_at, sections
from fedtune.recipe.lines import Path
from fedtune.recipe.recipe import Recipe

WIDTH = 100
"""Columns of a comment."""

Live = Callable[[Path], bool]
"""Is the key at a path written as a key, rather than as a comment?"""


def dump(recipe: Recipe) -> str:
    """Every key of `recipe` as TOML, each with what it means; `load` gives the same recipe back."""
    return write(recipe, live=lambda path: not _is_idle(recipe, path))


def write(recipe: Recipe, *, live: Live, header: str = "") -> str:
    """`recipe` as commented TOML below `header`; keys that are not `live` stand there as comments."""
    parts = [_comment(header)] if header else []
    for section in sections():
        parts.append(_section_text(recipe, section, live))
    return "\n".join(parts)


def value_at(recipe: Recipe, path: Path) -> Any:
    """The value of the key at `path`."""
    value: Any = recipe
    for part in path:
        value = getattr(value, str(part))
    return value


def _section_text(recipe: Recipe, section: Path, live: Live) -> str:
    model = section_at(section)
    about = (model.__doc__ or "").splitlines()[0] if model else ""
    head = f"[{'.'.join(map(str, section))}]\n" + _comment(about) + "\n" if section else ""
    return head + "\n".join(_key_text(recipe, path, live) for path in _keys_of(section))


def _key_text(recipe: Recipe, path: Path, live: Live) -> str:
    field = field_at(path)
    mark = "" if live(path) else "# "
    comment = _comment((field.description if field else "") or "")
    return f"{comment}{mark}{path[-1]} = {as_toml(value_at(recipe, path))}\n"


def _keys_of(section: Path) -> Iterator[Path]:
    return (path for path in leaf_keys(section) if path[:-1] == section)


def _comment(text: str) -> str:
    paragraphs = text.strip().split("\n\n")
    lines = [line for p in paragraphs for line in [*textwrap.wrap(p, WIDTH - 2, break_on_hyphens=False), ""]][:-1]
    return "".join(f"# {line}".rstrip() + "\n" for line in lines)


def _is_idle(recipe: Recipe, path: Path) -> bool:
    """Would a written key say a second time, and otherwise, what another one says?"""
    return path == ("training", "epochs") and recipe.training.steps is not None
