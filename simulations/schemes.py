"""One function a partition scheme: groups in, rows of each client out; the dealing itself is `flwr-datasets`'."""

import contextlib
import io
import warnings
from collections.abc import Callable
from typing import Any

import datasets
import numpy as np
from flwr_datasets import partitioner as flower
from numpy.typing import NDArray

from fedtune.errors import DataError
from fedtune.recipe.data import PartitionSection
from fedtune.seeds import derive_seed

Ints = NDArray[np.int64]
Scheme = Callable[[Ints, PartitionSection, int], list[Ints]]

ROW, GROUP = "row", "group"
DIRICHLET_TRIES = 10
"""Partitioners of fresh seeds that are tried; each of them draws eleven times."""


def iid(groups: Ints, scheme: PartitionSection, seed: int) -> list[Ints]:
    """Equal shares of the shuffled rows; where there are more clients than rows the last get none."""
    sharing = min(scheme.clients, len(groups))  # the partitioner cannot make an empty share
    shares = _dealt(flower.IidPartitioner(sharing), _shuffled(groups, seed), groups)
    return shares + [np.zeros(0, dtype=np.int64)] * (scheme.clients - sharing)


def dirichlet(groups: Ints, scheme: PartitionSection, seed: int) -> list[Ints]:
    """Shares of each class drawn from Dirichlet(alpha) over the clients (arXiv 1905.12022, without its balancing)."""
    if scheme.clients > len(groups):
        raise DataError(f"{len(groups)} rows are too few for {scheme.clients} clients: lower partition.clients")
    for attempt in range(DIRICHLET_TRIES):
        drawn = flower.DirichletPartitioner(
            num_partitions=scheme.clients,
            partition_by=GROUP,
            alpha=scheme.alpha,
            min_partition_size=scheme.min_rows,
            self_balancing=False,
            seed=derive_seed(seed, "dirichlet", round_=attempt),
        )
        with contextlib.suppress(ValueError):
            return _dealt(drawn, _shuffled(groups, seed), groups)
    raise DataError(
        f"Dirichlet({scheme.alpha:g}) over {scheme.clients} clients leaves some with fewer than {scheme.min_rows} of "
        f"{len(groups)} rows: raise partition.alpha, or lower partition.clients or partition.min_rows (0 allows "
        f"clients without rows)"
    )


def pathological(groups: Ints, scheme: PartitionSection, seed: int) -> list[Ints]:
    """`classes_per_client` classes a client, each class cut into equal pieces (arXiv 1602.05629), no class left out."""
    classes = int(groups.max(initial=-1)) + 1
    each = scheme.classes_per_client
    if each > classes:
        raise DataError(f"the data have {classes} classes: lower partition.classes_per_client from {each}")
    if scheme.clients < classes and scheme.clients + each - 1 < classes:
        raise DataError(
            f"{scheme.clients} clients of {each} classes leave some of the {classes} classes to nobody: "
            f"raise partition.clients to {classes} or partition.classes_per_client to {classes - scheme.clients + 1}"
        )
    dealer = flower.PathologicalPartitioner(
        num_partitions=scheme.clients,
        partition_by=GROUP,
        num_classes_per_partition=each,
        # Each mode covers every class only under its own condition, checked above.
        class_assignment_mode="first-deterministic" if scheme.clients >= classes else "deterministic",
        seed=seed,
    )
    try:
        return _dealt(dealer, _shuffled(groups, seed), groups)
    except ValueError as error:
        raise DataError(
            f"some class has fewer rows than the clients that are to hold it: lower partition.clients from "
            f"{scheme.clients} or partition.classes_per_client from {each}"
        ) from error


def natural(groups: Ints, scheme: PartitionSection, seed: int) -> list[Ints]:  # noqa: ARG001 - nothing is drawn
    """A client for each of the largest groups."""
    sizes = np.bincount(groups[groups >= 0], minlength=1)
    clients = int(np.count_nonzero(sizes[: scheme.clients] >= max(scheme.min_rows, 1)))
    if clients == 0:
        raise DataError(
            f"no value of the partition's column has {max(scheme.min_rows, 1)} rows: "
            "lower partition.min_rows or set partition.column to another column"
        )
    rows = np.flatnonzero((groups >= 0) & (groups < clients))
    return _dealt(flower.NaturalIdPartitioner(GROUP), rows, groups)


def size(groups: Ints, scheme: PartitionSection, seed: int) -> list[Ints]:
    """Shares that grow from client to client as `growth` says."""
    dealer = GROWTH[scheme.growth](scheme.clients)
    try:
        return _dealt(dealer, _shuffled(groups, seed), groups)
    except ValueError as error:
        raise DataError(
            f"sizes of {scheme.growth} growth leave some of {scheme.clients} clients without one of {len(groups)} "
            "rows: lower partition.clients or choose a slower partition.growth"
        ) from error


SCHEMES: dict[str, Scheme] = {
    "iid": iid,
    "dirichlet": dirichlet,
    "natural": natural,
    "pathological": pathological,
    "size": size,
}
LABEL_SCHEMES = frozenset({"dirichlet", "pathological"})
GROWTH: dict[str, Callable[[int], flower.Partitioner]] = {
    "linear": flower.LinearPartitioner,
    "square": flower.SquarePartitioner,
    "exponential": flower.ExponentialPartitioner,
}


def _shuffled(groups: Ints, seed: int) -> Ints:
    """The partitioners cut in table order, so the order is what makes a class's share random."""
    return np.random.default_rng(seed).permutation(len(groups))


def _dealt(dealer: Any, rows: Ints, groups: Ints) -> list[Ints]:
    """What the partitioner gives each client of `rows`, taken in that order."""
    # It draws a progress bar and warns about draws that it repeats; both would end up in a user's terminal.
    with contextlib.redirect_stderr(io.StringIO()), warnings.catch_warnings(), np.errstate(all="ignore"):
        warnings.simplefilter("ignore")
        dealer.dataset = datasets.Dataset.from_dict({ROW: rows, GROUP: groups[rows]})
        return [np.asarray(dealer.load_partition(i)[ROW][:]) for i in range(dealer.num_partitions)]
