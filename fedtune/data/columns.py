"""The columns that a task needs, under the names that the rest of the library knows."""

from typing import Any

import datasets

from fedtune.errors import DataError
from fedtune.recipe.data import DataSection
from fedtune.recipe.model import Task
from fedtune.suggest import did_you_mean, listed

ROLES: dict[Task, tuple[str, ...]] = {
    "sequence-classification": ("text", "label"),
    "causal-lm": ("prompt", "answer"),
    "image-classification": ("image", "label"),
}
"""The canonical columns of each task; `[data]` says what they are called in the source."""

TEXT_ROLES = frozenset({"text", "prompt", "answer"})
TEXT_TYPES = frozenset({"string", "large_string", "string_view", "null"})


def canonical_name(column: str, section: DataSection, task: Task) -> str:
    """What a column of the source is called after loading: its role, or its own name."""
    return {getattr(section, role): role for role in ROLES[task]}.get(column, column)


def with_roles(table: datasets.Dataset, section: DataSection, task: Task) -> datasets.Dataset:
    """The table with the task's columns renamed to their roles; the others stay, for a natural partition.

    A column of the source that is named like a role without being it is left out. Raises DataError where a column
    is missing, serves two roles or does not hold text.
    """
    given = {role: getattr(section, role) for role in ROLES[task]}
    for role, name in given.items():
        if name not in table.column_names:
            raise DataError(
                f'there is no column "{name}"{did_you_mean(name, table.column_names)}; the data have '
                f"{listed(table.column_names)}: set data.{role} to the right one"
            )
    if len(set(given.values())) < len(given):
        roles = " and ".join(f"data.{role}" for role in given)
        raise DataError(f"{roles} name the same column: give each its own")
    shadowed = [role for role, name in given.items() if role != name and role in table.column_names]
    taken = [role for role in shadowed if role not in given.values()]
    table = table.remove_columns(taken)
    table = table.rename_columns({name: f"{role} of fedtune" for role, name in given.items()})
    table = table.rename_columns({f"{role} of fedtune": role for role in given})
    for role in TEXT_ROLES & given.keys():
        _check_text(table.features[role], given[role], role)
    return table


def _check_text(feature: Any, name: str, role: str) -> None:
    kind = getattr(feature, "dtype", None)
    if not isinstance(feature, datasets.Value) or kind not in TEXT_TYPES:
        held = kind if isinstance(feature, datasets.Value) else type(feature).__name__.lower()
        raise DataError(f'the column "{name}" holds {held}, not text: set data.{role} to a text column')
