"""Who trains together, and what goes into one pass."""

from collections import defaultdict
from collections.abc import Iterator, Sequence
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


def lots(cohort: Sequence[Assignment], training: TrainingSection) -> list[list[int]]:
    """The positions of those that can share passes: they train the same tensors on the same base weights.

    Those that take no step are in none.
    """
    alike: dict[tuple[frozenset[str] | None, str], list[int]] = defaultdict(list)
    for position, assignment in enumerate(cohort):
        if assignment.trained == () or not count_steps(len(assignment.rows), training):
            continue
        trained = None if assignment.trained is None else frozenset(assignment.trained)
        alike[trained, assignment.shift.key].append(position)
    return list(alike.values())


def fill(items: Sequence[Item], most: int) -> Iterator[list[Item]]:
    """The items in passes of up to `most` tokens, rows of like length together; one that is larger goes alone."""
    chosen: list[Item] = []
    for item in sorted(items, key=lambda item: item.longest):
        if chosen and sum(other.tokens for other in chosen) + item.tokens > most:
            yield chosen
            chosen = []
        chosen.append(item)
    if chosen:
        yield chosen
