"""Reads a policy file: every mistake is said at once, with its line."""

import datetime
from collections.abc import Mapping
from pathlib import Path as File
from typing import Any

from pydantic import ValidationError
from pydantic_core import ErrorDetails

from client.policy.policy import BudgetSection, Policy
from fedtune.errors import PrivacyError, RecipeError
from fedtune.recipe.allowed import allowed, as_toml
from fedtune.recipe.base import Section
from fedtune.recipe.keys import dotted
from fedtune.recipe.lines import Path
from fedtune.recipe.source import Source, parse_source, read_source
from fedtune.suggest import did_you_mean

_SECTIONS: Mapping[Path, type[Section]] = {(): Policy, ("budget",): BudgetSection}
_WORDS = {"expires": "a date as in 2027-01-31, without quotes", "budget": "a section: write [budget] and its keys"}
"""What the general words of recipes have no name for."""


def load_policy(path: File) -> Policy:
    """The policy in a TOML file; raises PrivacyError that lists all mistakes, one line each, with their lines."""
    try:
        source = read_source(path)
    except RecipeError as error:
        raise PrivacyError(str(error)) from error
    return _resolve(source)


def parse_policy(text: str, name: str = "policy.toml") -> Policy:
    """As `load_policy`, for a text at hand that messages call `name`."""
    try:
        source = parse_source(text, name)
    except RecipeError as error:
        raise PrivacyError(str(error)) from error
    return _resolve(source)


def _resolve(source: Source) -> Policy:
    try:
        return Policy.model_validate(_frozen(source.values))
    except ValidationError as error:
        found = {_key(detail): detail for detail in error.errors(include_url=False)}
        ordered = sorted(found.items(), key=lambda item: source.order(item[0]))
        lines = [f"{source.place(path)}: {_sentence(path, detail)}" for path, detail in ordered]
        raise PrivacyError("\n".join(lines)) from error


def _key(detail: ErrorDetails) -> Path:
    """The key that a mistake is about: the list, where it is in an element, and without pydantic's own branches."""
    section = _SECTIONS.get(detail["loc"][:1], Policy)
    depth = 2 if section is BudgetSection else 1
    return detail["loc"][:depth]


def _sentence(path: Path, detail: ErrorDetails) -> str:
    section = _SECTIONS.get(path[:-1], Policy)
    name = str(path[-1])
    if detail["type"] == "extra_forbidden":
        keys = ", ".join(section.model_fields)
        return f"{dotted(path)} is not a key of a policy{did_you_mean(name, section.model_fields)} (allowed: {keys})"
    words = _WORDS.get(name) or allowed(section.model_fields[name]).removesuffix(' or "none"')
    if detail["type"] == "missing":
        return f"{dotted(path)} is missing: {words}"
    if detail["type"] == "value_error":
        return f"{dotted(path)} {detail['ctx']['error']}, not {_shown(detail['input'])}"
    return f"{dotted(path)} must be {words}, not {_shown(detail['input'])}"


def _shown(value: Any) -> str:
    return value.isoformat() if isinstance(value, datetime.date | datetime.time) else as_toml(value)


def _frozen(values: Mapping[str, Any]) -> dict[str, Any]:
    """TOML's arrays as the tuples that a policy holds."""
    return {
        key: tuple(value) if isinstance(value, list) else _frozen(value) if isinstance(value, dict) else value
        for key, value in values.items()
    }
