"""The keys that a recipe may have, as the section models declare them."""

import re
from collections.abc import Iterator

from pydantic.fields import FieldInfo

from fedtune.recipe.allowed import as_toml
from fedtune.recipe.base import Section
from fedtune.recipe.lines import Path
from fedtune.recipe.recipe import Recipe

_BARE = re.compile(r"[A-Za-z0-9_-]+")


def section_at(path: Path) -> type[Section] | None:
    """The model of the table at `path`, `()` being the recipe itself; None where a value or nothing stands there."""
    section: type[Section] = Recipe
    for part in path:
        field = section.model_fields.get(str(part))
        if field is None or not _is_section(field):
            return None
        section = field.annotation  # type: ignore[assignment]  # _is_section has seen to it
    return section


def field_at(path: Path) -> FieldInfo | None:
    """The declaration of the key at `path`, or None where the recipe has no such key."""
    section = section_at(path[:-1]) if path else None
    return section.model_fields.get(str(path[-1])) if section else None


def leaf_keys(at: Path = ()) -> Iterator[Path]:
    """Every key that holds a value, in the order of the sections."""
    section = section_at(at)
    for name in section.model_fields if section else ():
        path = (*at, name)
        if section_at(path):
            yield from leaf_keys(path)
        else:
            yield path


def sections(at: Path = ()) -> Iterator[Path]:
    """Every table, `()` and those inside others included."""
    section = section_at(at)
    if section is None:
        return
    yield at
    for name in section.model_fields:
        yield from sections((*at, name))


def dotted(path: Path) -> str:
    """A path as a person writes it: `adapter.targets[0]`."""
    text = ""
    for part in path:
        text += f"[{part}]" if isinstance(part, int) else "." * bool(text) + _spelled(part)
    return text


def _spelled(key: str) -> str:
    return key if _BARE.fullmatch(key) else as_toml(key)


def _is_section(field: FieldInfo) -> bool:
    return isinstance(field.annotation, type) and issubclass(field.annotation, Section)
