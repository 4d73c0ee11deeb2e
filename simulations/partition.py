"""Deals the rows of one table to simulated clients, by the partitioners of `flwr-datasets`."""

from collections.abc import Sequence

import datasets
import numpy as np
from numpy.typing import NDArray

from fedtune.errors import DataError
from fedtune.recipe.data import DataSection, PartitionSection
from fedtune.seeds import derive_seed
from simulations.sampled import SampledParts
from simulations.schemes import LABEL_SCHEMES, SCHEMES

ROLES = ("label", "text", "prompt", "answer", "image")


def partition(table: datasets.Dataset, section: DataSection, *, label: str, seed: int) -> Sequence[list[int]]:
    """The rows of each simulated client, `client-0` first, as ascending positions in `table`.

    `label` is the class column that the label schemes follow, empty where the task has none; `natural`, and a label
    scheme that names one, follow `partition.column`. Every row goes to exactly one client, except under two schemes.
    `natural`: the values with the most rows are a client each, the largest first, up to `partition.clients`; rows of
    other values, of values with fewer than `min_rows`, or without a value are left out, so that no client is a mixture
    that does not exist. `sampled`: each client's rows are drawn when they are asked for, whoever else holds them.

    Guarantees: the same table, section and seed give the same rows. Raises DataError where the scheme cannot be met.
    """
    if len(table) == 0:
        raise DataError("there are no rows to deal to clients: lower data.test_fraction or take more rows")
    scheme = section.partition
    groups = _groups(table, section, label)
    if scheme.scheme == "sampled":
        return SampledParts(np.maximum(groups, 0), scheme, seed)
    if scheme.scheme != "natural":
        _check_room(scheme, len(table))
    clients = SCHEMES[scheme.scheme](groups, scheme, derive_seed(seed, "partition"))
    rows = [sorted(int(row) for row in client) for client in clients]
    fewest = min(map(len, rows))
    if fewest < scheme.min_rows:
        raise DataError(
            f"a client of the {scheme.scheme} partition would hold {fewest} rows, fewer than partition.min_rows = "
            f"{scheme.min_rows}: lower min_rows or partition.clients"
        )
    return rows


def _check_room(scheme: PartitionSection, rows: int) -> None:
    if scheme.clients * scheme.min_rows > rows:
        raise DataError(
            f"{rows} rows are too few for {scheme.clients} clients of at least {scheme.min_rows}: "
            f"lower partition.clients or partition.min_rows, or take more rows"
        )


def _groups(table: datasets.Dataset, section: DataSection, label: str) -> NDArray[np.int64]:
    """The group of each row, numbered from the largest (ties by name); -1 where the row has no value."""
    if not _follows(section.partition):
        return np.zeros(len(table), dtype=np.int64)
    values = [None if value in (None, "") else str(value) for value in table[_column(table, section, label)][:]]
    counts: dict[str, int] = {}
    for value in values:
        if value is not None:
            counts[value] = counts.get(value, 0) + 1
    ranks = {value: rank for rank, value in enumerate(sorted(counts, key=lambda v: (-counts[v], v)))}
    return np.array([-1 if value is None else ranks[value] for value in values], dtype=np.int64)


def _follows(scheme: PartitionSection) -> bool:
    """Does the scheme look at a column?"""
    if scheme.scheme == "sampled":
        return scheme.label_alpha is not None
    return scheme.scheme in LABEL_SCHEMES | {"natural"}


def _column(table: datasets.Dataset, section: DataSection, label: str) -> str:
    scheme = section.partition
    wanted = scheme.column or (label if scheme.scheme in LABEL_SCHEMES | {"sampled"} else "")
    if not wanted:
        raise DataError(
            f"the {scheme.scheme} partition follows a column: set partition.column to one of "
            f"{', '.join(table.column_names)}"
        )
    # A column that has a role goes by the role's name once it is loaded.
    roles = {getattr(section, role): role for role in ROLES if role in table.column_names}
    found = wanted if wanted in table.column_names else roles.get(wanted)
    if found is None:
        raise DataError(
            f'there is no column "{wanted}" to partition by: set partition.column to one of '
            f"{', '.join(table.column_names)}"
        )
    return found
