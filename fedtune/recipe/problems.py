"""What is wrong with a recipe, one sentence a mistake: pydantic finds it, our own words say it."""

import tomllib
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

from pydantic import ValidationError

from fedtune.errors import RecipeError
from fedtune.recipe.allowed import allowed, as_toml, choices
from fedtune.recipe.keys import dotted, field_at, section_at
from fedtune.recipe.lines import Path
from fedtune.recipe.source import Source
from fedtune.recipe.suggest import key_meant, section_meant
from fedtune.suggest import nearest

LONGEST = 60
"""Of a wrong value, this many characters are repeated."""


@dataclass(frozen=True, slots=True)
class Problem:
    """One mistake: a sentence, and the paths that it is about."""

    paths: tuple[Path, ...]
    sentence: str


def refusal(problems: Iterable[Problem], source: Source, mistakes: Iterable[str] = ()) -> RecipeError:
    """The error that says all `mistakes` and then all `problems`, one line each, in the order of the file."""
    ordered = sorted(problems, key=lambda problem: source.order(*problem.paths))
    lines = (f"{source.place(*problem.paths)}: {problem.sentence}" for problem in ordered)
    return RecipeError("\n".join(dict.fromkeys([*mistakes, *lines])))


def problems_of(error: ValidationError) -> list[Problem]:
    """The mistakes that pydantic found, one for each key."""
    found: dict[Path, Problem] = {}
    for detail in error.errors(include_url=False):
        path = _path(detail["loc"], detail["type"])
        say = _SENTENCES.get(detail["type"], _wrong_value)
        found.setdefault(path, Problem((path,), say(path, detail["input"])))
    # A list in a union fails as a whole too: where one of its elements is named, that suffices.
    parents = {path[:-1] for path in found}
    return [problem for path, problem in found.items() if path not in parents]


def _path(loc: tuple[str | int, ...], kind: str) -> Path:
    """The path in the recipe of pydantic's location, which names the branches of unions too."""
    if kind in _SENTENCES:
        return loc
    path: Path = ()
    for part in loc:
        if isinstance(part, int) or field_at((*path, part)):
            path = (*path, part)
    return path


def _unknown(path: Path, value: Any) -> str:
    if len(path) == 1 and isinstance(value, dict):
        meant = section_meant(str(path[0]))
        return f"[{path[0]}] is not a section{_question(f'[{meant}]' if meant else '')} Allowed: {_section_list()}"
    section, meant = section_at(path[:-1]), key_meant(path)
    names = ", ".join(section.model_fields) if section else ""
    where = f"[{dotted(path[:-1])}]" if len(path) > 1 else "the top of a recipe"
    kind = "key of" if len(path) > 1 else "key at"
    return f"{dotted(path)} is not a {kind} {where}{_question(repr(meant) if meant else '')} Allowed: {names}"


def _missing(path: Path, _: Any) -> str:
    if section := section_at(path):
        needed = [name for name, field in section.model_fields.items() if field.is_required()]
        return f"there is no [{dotted(path)}] section; add it with {', '.join(f'{name} = …' for name in needed)}"
    field = field_at(path)
    what = f": {allowed(field)}" if field else ""
    return f"{dotted(path)} is missing; add {path[-1]} = … below [{dotted(path[:-1])}]{what}"


def _wrong_value(path: Path, value: Any) -> str:
    if section_at(path):
        return f"{dotted(path)} is a section: write [{dotted(path)}] and its keys below it, not {_shown(value)}"
    key = path[:-1] if isinstance(path[-1], int) else path
    field = field_at(key)
    if field is None:
        return f"{dotted(path)} cannot be {_shown(value)}"
    what = f"{dotted(path)} is {_shown(value)}, but {dotted(key)}" if key != path else dotted(key)
    instead = "" if key != path else f", not {_shown(value)}"
    return f"{what} must be {allowed(field)}{instead}{_hint(value, choices(field), allowed(field))}"


def _hint(value: Any, texts: tuple[str, ...], wanted: str) -> str:
    """What to write instead, where a text was meant to be something else."""
    if not isinstance(value, str):
        return ""
    if wanted.startswith("a list") and (not texts or value in texts):
        return f"; write [{as_toml(value)}]"
    if meant := nearest(value, texts):
        return f"; did you mean {as_toml(meant)}?"
    return "; write it without the quotes" if not texts and not _is_text(value) and "text" not in wanted else ""


def _is_text(value: str) -> bool:
    try:
        return isinstance(tomllib.loads(f"v = {value}").get("v"), str)
    except tomllib.TOMLDecodeError:
        return True


def _shown(value: Any) -> str:
    text = as_toml(value)
    return text if len(text) <= LONGEST else f"{text[:LONGEST]}…"


def _question(meant: str) -> str:
    return f"; did you mean {meant}?" if meant else "."


def _section_list() -> str:
    recipe = section_at(())
    return ", ".join(f"[{name}]" for name in recipe.model_fields if section_at((name,))) if recipe else ""


_SENTENCES: dict[str, Callable[[Path, Any], str]] = {"extra_forbidden": _unknown, "missing": _missing}
"""Pydantic's names of mistakes that are not about a value; every other one is a wrong value."""
