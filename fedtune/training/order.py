"""Which rows each local step reads: a fresh shuffle an epoch, drawn from the assignment's seed."""

from collections.abc import Iterator
from itertools import count, islice

import torch

from fedtune.recipe.training import TrainingSection
from fedtune.seeds import generator

Step = list[list[int]]
"""The rows of one optimiser step, as the forward passes that it is made of."""


def count_steps(rows: int, training: TrainingSection) -> int:
    """How many optimiser steps a client with so many rows takes in a round; 0 without rows."""
    if not rows:
        return 0
    if training.steps is not None:
        return training.steps
    return training.epochs * _steps_per_epoch(rows, training)


def local_steps(rows: int, training: TrainingSection, seed: int) -> Iterator[Step]:
    """The `count_steps` steps of one round, each up to `accumulate` passes of up to `batch_size` rows.

    Every epoch reads each row once. A step never spans two epochs: an epoch's last step, and its last pass, may be
    shorter than the others.
    """
    steps = (step for epoch in count() for step in _epoch(rows, training, seed, epoch))
    return islice(steps, count_steps(rows, training))


def draw_rows(rows: int, limit: int, seed: int) -> list[int]:
    """Up to `limit` different rows out of `rows`, drawn by `seed`."""
    return _shuffled(rows, seed, epoch=0)[:limit]


def slices(indices: list[int], size: int) -> list[list[int]]:
    """`indices` cut into runs of `size`; the last may be shorter."""
    return [indices[start : start + size] for start in range(0, len(indices), size)]


def _steps_per_epoch(rows: int, training: TrainingSection) -> int:
    return -(-rows // (training.batch_size * training.accumulate))


def _epoch(rows: int, training: TrainingSection, seed: int, epoch: int) -> Iterator[Step]:
    for step in slices(_shuffled(rows, seed, epoch), training.batch_size * training.accumulate):
        yield slices(step, training.batch_size)


def _shuffled(rows: int, seed: int, epoch: int) -> list[int]:
    order: list[int] = torch.randperm(rows, generator=generator(seed, "order", round_=epoch)).tolist()
    return order
