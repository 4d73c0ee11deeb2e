"""Labels of any kind become class names, and are checked against the classes that the model has."""

import math
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any

import datasets

from fedtune.errors import DataError
from fedtune.suggest import did_you_mean, listed, quoted

MANY_CLASSES = 50


def labels_of(table: datasets.Dataset) -> tuple[str, ...]:
    """The class names of a loaded table, sorted (numbers by value): what fills `model.labels`.

    Raises DataError where `data.max_rows` left fewer than two.
    """
    names = in_order(table["label"][:])
    if len(names) < 2:
        raise DataError(f"the {len(table)} rows drawn have one class only: raise data.max_rows")
    return names


def in_order(names: Iterable[str]) -> tuple[str, ...]:
    """Each name once; by value where all are whole numbers, otherwise by code point."""
    unique = set(names)
    numeric = all(name.isascii() and name.isdigit() for name in unique)
    return tuple(sorted(unique, key=(lambda name: (int(name), name)) if numeric else None))


def label_names(values: Sequence[Any], feature: Any, classes: Sequence[str]) -> list[str | None]:
    """The class name of every row, None where it has none.

    A ClassLabel gives its names; a whole number is a position in `classes` where the classes are not numbers
    themselves. Raises DataError where the values are no classes.
    """
    if isinstance(feature, datasets.ClassLabel):
        return [feature.names[v] if v is not None and v >= 0 else None for v in values]
    named = [_name(value) for value in values]
    present = {name for name in named if name is not None}
    positions = {str(i): name for i, name in enumerate(classes)}
    if present and not present <= set(classes) and present <= positions.keys():
        return [positions[name] if name is not None else None for name in named]
    return named


def _name(value: Any) -> str | None:
    match value:
        case None:
            return None
        case str():
            return value.strip() or None
        case bool():
            return str(value).lower()
        case int():
            return str(value)
        case float() if math.isnan(value):
            return None
        case float() if value.is_integer():
            return str(int(value))
        case float():
            raise DataError(f"the label {value} is no class: round the labels, or set data.label to another column")
    kind = type(value).__name__
    raise DataError(f"a label is one class name a row, not a {kind}: set data.label to a column of names")


def check_labels(names: Sequence[str], classes: Sequence[str]) -> None:
    """Refuse labels that cannot be learned; `classes` is `model.labels`, empty where the data decide."""
    counts = Counter(names)
    _check_distinct(classes, "model.labels")
    if classes:
        _check_known(counts, classes)
        return
    _check_distinct(in_order(counts), "the label column")
    if len(counts) < 2:
        raise DataError(
            f"every row has the label {listed(counts)}: there is nothing to tell apart, add rows of a second class"
        )
    if len(counts) > max(MANY_CLASSES, len(names) // 2):
        raise DataError(
            f"{len(names)} rows have {len(counts)} different labels: set data.label to the column of the classes"
        )


def _check_known(counts: Counter[str], classes: Sequence[str]) -> None:
    unknown = [name for name, _ in counts.most_common() if name not in set(classes)]
    if unknown:
        raise DataError(
            f"the data have labels that the model has not: {listed(unknown)}{did_you_mean(unknown[0], classes)}; "
            f"model.labels is {listed(classes)}"
        )


def _check_distinct(classes: Sequence[str], where: str) -> None:
    seen: dict[str, str] = {}
    for name in classes:
        folded = " ".join(name.casefold().split())
        if not folded:
            raise DataError(f"{where} has a class without a name: give it one")
        if folded in seen:
            how = "twice" if seen[folded] == name else f"beside {quoted(seen[folded])}"
            raise DataError(f"{where} has the class {quoted(name)} {how}: make them one name")
        seen[folded] = name
