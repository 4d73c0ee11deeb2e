"""The settings of a method of the `peft` library, as a recipe gives them: `name=value`."""

import dataclasses
import json
import tomllib
from collections.abc import Iterable
from typing import Any

from fedtune.errors import AdapterError
from fedtune.suggest import did_you_mean, listed

SETTLED = frozenset(
    {
        "auto_mapping",
        "base_model_name_or_path",
        "inference_mode",
        "modules_to_save",
        "peft_type",
        "peft_version",
        "revision",
        "task_type",
    }
)
"""Fields that follow from the rest of the recipe."""

NAME_LISTS = ("target_modules", "feedforward_modules", "exclude_modules")
"""Fields whose one name is a list of one: the library would take it for a pattern that the whole name must fit."""

Parsed = dict[str, Any]


def parse_options(options: Iterable[str], config: type) -> Parsed:
    """The settings by name, checked against the fields of one of PEFT's config classes.

    A value is written as in TOML or JSON; `none` is none, `a,b` a list, and any other text itself. Raises AdapterError
    for an unknown or repeated name, and for fields that name files or code: a recipe reaches every client.
    """
    known = {field.name for field in dataclasses.fields(config) if field.init} - SETTLED
    parsed: Parsed = {}
    for option in options:
        name, equals, text = (part.strip() for part in option.partition("="))
        if not equals:
            raise AdapterError(f'adapter.peft_options: "{option}" is no setting; write "name=value"')
        if name in SETTLED:
            raise AdapterError(f'adapter.peft_options: "{name}" follows from the rest of the recipe; leave it out')
        if name not in known:
            hint = did_you_mean(name, known) or f"; it has {listed(sorted(known))}"
            raise AdapterError(f'adapter.peft_options: {config.__name__} has no setting "{name}"{hint}')
        if "path" in name or "tokenizer" in name:
            raise AdapterError(f'adapter.peft_options: "{name}" reads files that clients may not have; leave it out')
        if name in parsed:
            raise AdapterError(f'adapter.peft_options gives "{name}" twice; keep one')
        value = parse_value(text)
        parsed[name] = [value] if name in NAME_LISTS and isinstance(value, str) and value != "all-linear" else value
    return parsed


def parse_value(text: str) -> Any:
    """What a value means: a TOML or JSON value, `none`, a list with commas, or the text itself."""
    if text.lower() in ("none", "null"):
        return None
    for read in (_toml, json.loads):
        try:
            return read(text)
        except (ValueError, RecursionError):
            continue
    if "," in text and text[0] not in "[{\"'":
        return [parse_value(part.strip()) for part in text.split(",") if part.strip()]
    return text


def _toml(text: str) -> Any:
    table = tomllib.loads(f"value = {text}")
    if table.keys() != {"value"}:
        raise ValueError(text)
    return table["value"]
