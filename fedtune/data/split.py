"""Rows divided in two by a seed: the central test set, and what each client keeps for evaluation."""

from typing import Any, TypeVar

import datasets
import torch

from fedtune.data.rows import EncodedRows
from fedtune.seeds import generator

TEST_PURPOSE = "test-split"
HOLDOUT_PURPOSE = "holdout-split"

Divisible = TypeVar("Divisible", EncodedRows, datasets.Dataset)


def split_indices(
    rows: int, fraction: float, *, seed: int, purpose: str, client: str = ""
) -> tuple[list[int], list[int]]:
    """(kept, held out): each row in one of the two, both in ascending order.

    About `fraction` is held out: at least one row where there are two or more and the fraction is not 0, and never
    all of them. The draw depends on the seed, the purpose, the client and the number of rows alone.
    """
    held = held_out(rows, fraction)
    order = torch.randperm(rows, generator=generator(seed, purpose, client=client)).tolist()
    return sorted(order[held:]), sorted(order[:held])


def held_out(rows: int, fraction: float) -> int:
    """How many of `rows` rows `split_indices` holds out."""
    return 0 if fraction == 0 or rows < 2 else min(max(round(rows * fraction), 1), rows - 1)


def split(
    rows: Divisible, fraction: float, *, seed: int, purpose: str = TEST_PURPOSE, client: str = ""
) -> tuple[Divisible, Divisible]:
    """(kept, held out) of a table or of encoded rows, by `split_indices`; neither is copied."""
    kept, held = split_indices(len(rows), fraction, seed=seed, purpose=purpose, client=client)
    return _at(rows, kept), _at(rows, held)


def _at(rows: Any, indices: list[int]) -> Any:
    return rows.subset(indices) if isinstance(rows, EncodedRows) else rows.select(indices)
