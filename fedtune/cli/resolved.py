"""A resolved recipe on a terminal: each key, its value, and who gave it."""

from rich.text import Text

from fedtune.recipe.allowed import as_toml
from fedtune.recipe.keys import leaf_keys, sections
from fedtune.recipe.lines import Path
from fedtune.recipe.load import Loaded

WIDTH = 44
"""The column in which a value's origin begins, where the value leaves room."""


def render(loaded: Loaded) -> Text:
    """All keys as TOML with each origin as a comment: written, filled (marked), or the default (dim)."""
    text = Text()
    for section in sections():
        keys = [key for key in leaf_keys(section) if key[:-1] == section]
        if section:
            text.append(f"\n[{'.'.join(map(str, section))}]\n", style="bold")
        for key in keys:
            text.append(_line(loaded, key))
    return text


def _line(loaded: Loaded, key: Path) -> Text:
    value: object = loaded.recipe
    for part in key:
        value = getattr(value, str(part))
    origin, style = _origin(loaded, key)
    written = f"{key[-1]} = {as_toml(value)}"
    return Text(f"{written:<{WIDTH}}", style=style).append(f"  # {origin}\n", style="dim" if style != FILLED else style)


FILLED = "yellow"


def _origin(loaded: Loaded, key: Path) -> tuple[str, str]:
    if key in loaded.filled:
        return f"filled: {loaded.filled[key]}", FILLED
    if loaded.source.wrote(key):
        return loaded.source.place(key).removeprefix(f"{loaded.source.name}, "), ""
    return "default", "dim"
