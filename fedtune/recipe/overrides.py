"""Keys from the command line: `--set training.lr=1e-3` lays a value over the file's."""

import copy
import dataclasses
import re
import tomllib
from collections.abc import Sequence
from typing import Any

from fedtune.errors import RecipeError
from fedtune.recipe.allowed import takes_any_text
from fedtune.recipe.keys import dotted, field_at, leaf_keys, section_at
from fedtune.recipe.lines import Path
from fedtune.recipe.source import Source, Values
from fedtune.recipe.suggest import did_you_mean, key_meant

_NAME = re.compile(r"[A-Za-z0-9_-]+(\.[A-Za-z0-9_-]+)*")

RIVALS: dict[Path, Path] = {
    ("training", "steps"): ("training", "epochs"),
    ("training", "epochs"): ("training", "steps"),
}
"""Two ways to say one thing: an override of the one takes the other out of the file's values."""


def apply_overrides(source: Source, overrides: Sequence[str]) -> tuple[Source, list[str]]:
    """`source` with each `KEY=VALUE` laid over it, the last one winning, and a sentence for each that is wrong.

    A value is TOML; a bare word is a text, and for a key that holds a text so is everything else.
    """
    values = copy.deepcopy(source.values)
    said: dict[Path, str] = {}
    mistakes: list[str] = []
    for override in overrides:
        try:
            path, value = parse_override(override)
            _put(values, path, value)
            if path in RIVALS and RIVALS[path] not in said:
                _take_out(values, RIVALS[path])
            said[path] = override
        except RecipeError as error:
            mistakes.append(str(error))
    return dataclasses.replace(source, values=values, overrides=said), mistakes


def parse_override(override: str) -> tuple[Path, Any]:
    """The path and value of one `KEY=VALUE`; raises RecipeError."""
    name, equals, text = override.partition("=")
    name, text = name.strip(), text.strip()
    if not equals or not _NAME.fullmatch(name):
        raise RecipeError(f"--set {override}: write it as KEY=VALUE, for example --set training.lr=1e-3")
    path: Path = tuple(name.split("."))
    field = field_at(path)
    if field is None or section_at(path):
        raise RecipeError(f"--set {override}: {_no_key(path)}")
    return path, _value(override, text, any_text=takes_any_text(field))


def _no_key(path: Path) -> str:
    if section := section_at(path):
        return f"{dotted(path)} is a section; set one of its keys: {', '.join(section.model_fields)}"
    return f"there is no key {dotted(path)}{_hint(path)}"


def _hint(path: Path) -> str:
    section, meant = section_at(path[:-1]), key_meant(path)
    if section is None:
        return did_you_mean(dotted(path), map(dotted, leaf_keys()))
    if meant in section.model_fields:
        meant = dotted((*path[:-1], meant))
    return f"; did you mean '{meant}'?" if meant else f". Allowed: {', '.join(section.model_fields)}"


def _value(override: str, text: str, *, any_text: bool) -> Any:
    try:
        parsed = tomllib.loads(f"v = {text}")
    except (tomllib.TOMLDecodeError, RecursionError):
        parsed = {}
    if set(parsed) == {"v"} and (isinstance(parsed["v"], str) or not any_text):
        return parsed["v"]
    if not any_text and text[:1] in tuple("[{\"'"):
        raise RecipeError(
            f"--set {override}: the value is not TOML; quote the texts in it and the whole from the shell, "
            'for example --set \'model.labels=["ham", "spam"]\''
        )
    return text


def _put(values: Values, path: Path, value: Any) -> None:
    table = values
    for part in path[:-1]:
        table = table.setdefault(str(part), {})
        if not isinstance(table, dict):
            raise RecipeError(f"--set {dotted(path)}=…: {part} is a section, but the file gives it a value")
    table[str(path[-1])] = value


def _take_out(values: Values, path: Path) -> None:
    table = values
    for part in path[:-1]:
        table = table.get(str(part), {})
    table.pop(str(path[-1]), None)
