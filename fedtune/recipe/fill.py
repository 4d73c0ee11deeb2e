"""Settles the keys that a recipe leaves open: by its method, and by what follows from its other choices."""

import copy
from typing import Any

from fedtune.recipe.allowed import NONE, as_toml, may_be_none, takes_any_text
from fedtune.recipe.keys import dotted, field_at, leaf_keys
from fedtune.recipe.lines import Path
from fedtune.recipe.methods import METHODS, Value, no_method
from fedtune.recipe.problems import Problem
from fedtune.recipe.source import Values

CONSEQUENCES: tuple[tuple[Path, Any, Path, Any], ...] = (
    (("adapter", "kind"), "lora", ("adapter", "init"), "kaiming"),
    (("adapter", "kind"), "ravan", ("adapter", "init"), "random"),
    (("adapter", "kind"), "peft", ("adapter", "init"), "random"),
    (("adapter", "kind"), "prompt", ("adapter", "init"), "random"),
    (("training", "scaffold"), True, ("training", "optimizer"), "sgd"),
    (("training", "scaffold"), True, ("training", "max_grad_norm"), "none"),
    (("model", "task"), "causal-lm", ("adapter", "head"), False),
    (("privacy", "unit"), "example", ("aggregation", "weights"), "uniform"),
    (("privacy", "unit"), "client", ("aggregation", "weights"), "uniform"),
    (("privacy", "unit"), "example", ("training", "max_grad_norm"), "none"),
)
"""Where the first key has the first value and the second key is open, the second key has the second value."""

Filled = dict[Path, str]
"""What filled each key that the recipe left open."""


def fill(values: Values) -> tuple[Values, Filled, list[Problem]]:
    """A copy of raw `values` with open keys filled, what filled them, and where the recipe contradicts its method."""
    values = copy.deepcopy(values)
    filled: Filled = {}
    problems = _fill_method(values, filled)
    for cause, value, effect, consequence in CONSEQUENCES:
        if look_up(values, cause) == value and look_up(values, effect) is None:
            _put(values, effect, consequence)
            filled[effect] = f"{dotted(cause)} = {as_toml(value)}"
    _read_none(values)
    return values, filled, problems


def look_up(values: Any, path: Path) -> Any:
    """The raw value at `path`; None where there is none."""
    for part in path:
        values = values.get(part) if isinstance(values, dict) else None
    return values


def _fill_method(values: Values, filled: Filled) -> list[Problem]:
    name = values.get("method", "")
    if not isinstance(name, str) or not name:
        return []
    method = METHODS.get(name)
    if method is None:
        return [Problem((("method",),), no_method(name))]
    problems = []
    for path, agreeing in method.settles.items():
        found = look_up(values, path)
        if found is None:
            _put(values, path, agreeing[0])
            filled[path] = f'method "{name}"'
        elif isinstance(found, str | bool) and found not in agreeing:
            problems.append(Problem((("method",), path), _contradiction(name, path, agreeing, found)))
    return problems


def _contradiction(name: str, path: Path, agreeing: tuple[Value, ...], found: str | bool) -> str:
    means = " or ".join(map(as_toml, agreeing))
    return (
        f'method = "{name}" means {dotted(path)} = {means}, but the recipe says {as_toml(found)}; '
        f"leave out the method or {dotted(path)}"
    )


def _put(values: Values, path: Path, value: Any) -> None:
    """Set a key; a section that is no table is left for validation to complain about."""
    table = values.setdefault(str(path[0]), {})
    if isinstance(table, dict):
        table[path[1]] = value


def _read_none(values: Values) -> None:
    """TOML has no null: `"none"` stands for it in the keys that take it."""
    for path in leaf_keys():
        field = field_at(path)
        if field and may_be_none(field) and not takes_any_text(field) and look_up(values, path) == NONE:
            table = look_up(values, path[:-1])
            table[path[-1]] = None
