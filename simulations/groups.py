"""Which clients of a round are handed out together, so that they can share passes over the base model."""

import math
import os
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Protocol

import torch

from fedtune.recipe import Recipe
from fedtune.training.device import choose_device

Jobs = Sequence[tuple[str, bytes]]
"""(client, task) pairs."""
Group = Sequence[int]
"""Positions of jobs that are handed out together, ascending."""
Cut = Callable[[Jobs], list[Group]]
"""Says which jobs are handed out together: every job in one group, groups in the order of their first jobs."""
Rows = Callable[[str], int]
"""How many rows a client learns from."""
AT_ONCE, SHARE = 8, 4
"""Under a virtual clock clients are worked on eight at a time, or a quarter of those that were asked together where
that is more, so that they can share passes. They are the same ones however many workers there are."""
A_CORE, ENOUGH, LARGEST = 2, 16, 32
"""A round is dealt in two groups a core, so that all have something to do to the end of it, but in one a core rather
than in groups of fewer than 16: what a pass costs beside its rows would weigh too much. A group's size ends at 32,
where passes have long been full and a group's tensors take memory."""


class Answers(Protocol):
    """What answers tasks: a workplace, or workers that each hold one."""

    def answer_all(self, jobs: Jobs) -> Iterator[bytes]:
        """The replies of (client, task) pairs, in order."""
        ...


def cores() -> int:
    """How many cores of this machine the process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def at_once(asked: int) -> int:
    """How many clients at most are worked on at a time under a virtual clock, of so many that were asked together."""
    return max(AT_ONCE, -(-asked // SHARE))


def handed_out(recipe: Recipe, clients: float) -> int:
    """How many are handed out at a time, where a round trains so many clients or asks them to."""
    if recipe.federation.buffer:
        return 1
    asked = max(1, round(clients))
    return min(at_once(asked), asked) if recipe.simulation.active else asked


def asked_in_a_round(recipe: Recipe, clients: int) -> int:
    """How many of so many clients a round asks, where nothing but the recipe decides."""
    section = recipe.federation
    return min(math.ceil((section.clients_per_round or clients) * (1 + section.over_select)), clients)


def lanes(recipe: Recipe) -> int:
    """How many groups this machine works on side by side: one a core, or one a GPU where those do the work.

    Several GPUs are for `--ray`, but no byte may change by that.
    """
    device = choose_device(recipe.training.device)
    if device.type == "cpu":
        return cores()
    several = device.type == "cuda" and recipe.training.device in {"auto", "cuda"}
    return torch.cuda.device_count() if several else 1


def group_size(clients: int, side_by_side: int) -> int:
    """Up to how many of so many clients are in a group, where so many groups are worked on side by side."""
    each = 1 if side_by_side == 1 else max(1, min(A_CORE, clients // (ENOUGH * side_by_side)))
    waves = max(each, -(-clients // (LARGEST * side_by_side)))
    return max(1, -(-clients // (waves * side_by_side)))


def in_a_group(recipe: Recipe, clients: int) -> int:
    """Up to how many of a recipe's so many clients are in a group, where nothing but the recipe decides."""
    return group_size(handed_out(recipe, asked_in_a_round(recipe, clients)), lanes(recipe))


def groups(jobs: Jobs, *, side_by_side: int, rows: Rows | None = None) -> list[Group]:
    """The jobs of a round in groups of up to `group_size`.

    The groups that are worked on side by side have about as much to do, by the `rows` of their clients; as they come
    where those are not to be looked at.
    """
    size = group_size(len(jobs), side_by_side)
    if rows is None:
        return [range(start, min(start + size, len(jobs))) for start in range(0, len(jobs), size)]
    found: list[Group] = []
    for start in range(0, len(jobs), size * side_by_side):
        clients = [client for client, _ in jobs[start : start + size * side_by_side]]
        dealt = _even([rows(client) for client in clients], size)
        found += [[start + place for place in group] for group in dealt]
    return found


def _even(weights: Sequence[int], size: int) -> list[list[int]]:
    """Positions in groups of up to `size`, the heaviest first, each to the group that has least and has room.

    As they come where all weigh the same.
    """
    if len(set(weights)) == 1:
        return [list(range(start, min(start + size, len(weights)))) for start in range(0, len(weights), size)]
    found: list[list[int]] = [[] for _ in range(-(-len(weights) // size))]
    loads = [0] * len(found)
    for place in sorted(range(len(weights)), key=lambda place: -weights[place]):
        chosen = min((n for n in range(len(found)) if len(found[n]) < size), key=lambda n: (loads[n], len(found[n])))
        found[chosen].append(place)
        loads[chosen] += weights[place]
    return sorted(sorted(group) for group in found if group)


def singly(jobs: Jobs) -> list[Group]:
    """Each job alone: for those that share nothing."""
    return [[position] for position in range(len(jobs))]


def cut_of(recipe: Recipe, rows: Rows | None = None) -> Cut:
    """Which jobs of a recipe share passes, by their number, this machine, and the `rows` that each client learns from.

    In asynchronous rounds none do: who is at work together is not after a resume, and no byte may change by that. Under
    DP-SGD nobody's rows have a say, nor their number; nor have they where every client takes as many steps.
    """
    if recipe.federation.buffer:
        return singly
    looked_at = None if recipe.privacy.unit == "example" or recipe.training.steps is not None else rows
    return partial(groups, side_by_side=lanes(recipe), rows=looked_at)
