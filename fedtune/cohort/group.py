"""Who trains together, and what goes into one pass."""

import sys
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from fedtune.cohort.base import Part
from fedtune.recipe.training import TrainingSection
from fedtune.training.base import Assignment
from fedtune.training.order import count_steps


@dataclass(frozen=True, slots=True)
class Item:
    """One batch of one client, and how many targets the step has that it is part of."""

    client: int
    part: Part
    tokens: int
    """Of all its rows."""
    longest: int
    """Of one of them."""
    targets: int
    seeds: tuple[int, ...] = ()
    """What each row's dropout is drawn by; none where nothing is dropped."""


def lots(cohort: Sequence[Assignment], training: TrainingSection) -> list[list[int]]:
    """The positions of those that can share passes: they train the same tensors on the same base weights.

    Those that take no step are in none.
    """
    return alike(cohort, [position for position, one in enumerate(cohort) if count_steps(len(one.rows), training)])


def alike(cohort: Sequence[Assignment], positions: Iterable[int]) -> list[list[int]]:
    """Of these positions, those together that train the same tensors on the same base weights, if any."""
    found: dict[tuple[frozenset[str] | None, str], list[int]] = defaultdict(list)
    for position in positions:
        assignment = cohort[position]
        if assignment.trained != ():
            trained = None if assignment.trained is None else frozenset(assignment.trained)
            found[trained, assignment.shift.key].append(position)
    return list(found.values())


def fill(items: Sequence[Item], most: int, most_items: int = sys.maxsize) -> Iterator[list[Item]]:
    """The items in passes of up to `most` tokens, rows of like length together; one that is larger goes alone.

    Where one pass holds them all, they keep their order.
    """
    if items and len(items) <= most_items and sum(item.tokens for item in items) <= most:
        yield list(items)
        return
    chosen: list[Item] = []
    tokens = 0
    for item in sorted(items, key=lambda item: item.longest):
        if chosen and (len(chosen) == most_items or tokens + item.tokens > most):
            yield chosen
            chosen, tokens = [], 0
        chosen.append(item)
        tokens += item.tokens
    if chosen:
        yield chosen
