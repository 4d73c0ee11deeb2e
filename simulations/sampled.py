"""The `sampled` partition: each client's rows are drawn when they are asked for, from (seed, client) alone."""

import math
from collections.abc import Iterator, Sequence
from typing import overload

import numpy as np
from numpy.typing import NDArray

from fedtune.errors import DataError
from fedtune.recipe.data import PartitionSection
from fedtune.seeds import derive_seed
from simulations.names import client_name

Ints = NDArray[np.int64]


class SampledParts(Sequence[list[int]]):
    """The rows of each client by its position, without any of them held.

    A client draws its number of rows (log-normal around `rows_per_client`), its mix of labels where there is
    `label_alpha`, and then different rows; another client may draw the same ones.

    Guarantees: a part depends on the seed, the section, the groups and the position alone, never on `clients` or on
    what was asked before. Memory does not grow with the number of clients.
    """

    def __init__(self, groups: Ints, scheme: PartitionSection, seed: int) -> None:
        """`groups` (N,): the group of each row, from 0; raises DataError where the rows are too few for a client."""
        least = max(scheme.min_rows, 1)
        if max(least, scheme.rows_per_client) > len(groups):
            raise DataError(
                f"{len(groups)} rows are too few for a client of {max(least, scheme.rows_per_client)}: lower "
                "partition.rows_per_client or partition.min_rows, or take more rows"
            )
        self._scheme, self._seed, self._least, self._rows = scheme, seed, least, len(groups)
        self._groups = [np.flatnonzero(groups == group) for group in range(int(groups.max()) + 1)]
        self._shares = np.array([len(rows) for rows in self._groups]) / len(groups)

    def __len__(self) -> int:
        return self._scheme.clients

    @overload
    def __getitem__(self, position: int) -> list[int]: ...
    @overload
    def __getitem__(self, position: slice) -> list[list[int]]: ...
    def __getitem__(self, position: int | slice) -> list[int] | list[list[int]]:
        if isinstance(position, slice):
            return [self._part(at) for at in range(*position.indices(len(self)))]
        return self._part(range(len(self))[position])

    def __iter__(self) -> Iterator[list[int]]:
        return map(self._part, range(len(self)))

    def size(self, position: int) -> int:
        """How many rows a client holds; they are not drawn for it."""
        if not self._scheme.rows_spread:
            return max(self._least, self._scheme.rows_per_client)
        drawn = self._draw("sampled-size", position).lognormal(0.0, self._scheme.rows_spread)
        return int(min(max(self._least, math.floor(self._scheme.rows_per_client * drawn + 0.5)), self._rows))

    def _part(self, position: int) -> list[int]:
        draw = self._draw("sampled-rows", position)
        size = self.size(position)
        alpha = self._scheme.label_alpha
        if alpha is None:
            return sorted(draw.choice(self._rows, size, replace=False).tolist())
        counts = self._counts(draw, size, alpha)
        chosen = [draw.choice(rows, count, replace=False) for rows, count in zip(self._groups, counts, strict=True)]
        return sorted(np.concatenate(chosen).tolist())

    def _counts(self, draw: np.random.Generator, size: int, alpha: float) -> Ints:
        """How many rows of each group: a Dirichlet mix, and what a group cannot give by the others' room."""
        mix = draw.dirichlet(np.maximum(alpha * len(self._shares) * self._shares, 1e-12))
        counts = np.minimum(draw.multinomial(size, mix), [len(rows) for rows in self._groups])
        while missing := size - int(counts.sum()):
            room = np.array([len(rows) for rows in self._groups]) - counts
            counts += draw.multivariate_hypergeometric(room, missing)
        return counts

    def _draw(self, purpose: str, position: int) -> np.random.Generator:
        return np.random.default_rng(derive_seed(self._seed, purpose, client=client_name(position)))
