"""A view of an encoded table: the rows of one client, by their positions."""

from collections import Counter
from collections.abc import Mapping, Sequence
from itertools import count
from typing import Any
from weakref import WeakKeyDictionary

import numpy as np

from fedtune.data.base import Batch
from fedtune.data.ragged import Ints
from fedtune.data.store import Store, TextStore

_NUMBERS: WeakKeyDictionary[Store, int] = WeakKeyDictionary()
"""A number for each store; it is never another store's, also after this one is gone."""
_NEXT = count()


class EncodedRows:
    """Some rows of a `Store`; a thousand clients' views share one store.

    `notes` says what a local report may show of a whole table, so a subset has none; `labels` are the class names.
    """

    def __init__(
        self,
        store: Store,
        rows: Ints | None = None,
        *,
        labels: Sequence[str] = (),
        notes: Mapping[str, Any] | None = None,
    ) -> None:
        self._store = store
        self._number = _NUMBERS.setdefault(store, next(_NEXT))
        self._rows = np.arange(len(store.lengths)) if rows is None else rows
        self.labels = tuple(labels)
        self.notes: Mapping[str, Any] = notes or {}

    def __len__(self) -> int:
        return len(self._rows)

    @property
    def lengths(self) -> Ints:
        """Tokens of each row, (N,) int64: for grouping rows of like length."""
        return self._store.lengths[self._rows]

    @property
    def classes(self) -> Ints | None:
        """The class of each row as a position in `labels`, (N,) int64; None for `causal-lm`."""
        return None if self._store.classes is None else self._store.classes[self._rows]

    def keys(self, indices: Sequence[int]) -> list[tuple[int, int]]:
        """What names the rows at `indices` in this process: the same through every view of a table, and only there."""
        return [(self._number, row) for row in self._rows[np.asarray(indices, dtype=np.int64)].tolist()]

    def batch(self, indices: Sequence[int]) -> Batch:
        """The rows at `indices`, padded on the right to the longest of them, as CPU tensors."""
        return self._store.batch(self._rows[np.asarray(indices, dtype=np.int64)])

    def texts(self, indices: Sequence[int]) -> tuple[Ints, Ints, Ints] | None:
        """Classified texts end to end: all tokens (N,), the rows' lengths and classes (rows,), int64.

        None where the rows are something else, or one of them has no token or no class.
        """
        rows = self._rows[np.asarray(indices, dtype=np.int64)]
        if not isinstance(self._store, TextStore):
            return None
        lengths, classes = self._store.lengths[rows], self._store.classes[rows]
        return (self._store.flat(rows), lengths, classes) if lengths.all() and (classes >= 0).all() else None

    def subset(self, indices: Sequence[int]) -> "EncodedRows":
        """A view of the rows at `indices`, in that order; nothing is copied but the positions."""
        chosen = self._rows[np.asarray(indices, dtype=np.int64)]
        return EncodedRows(self._store, chosen, labels=self.labels)

    def label_counts(self) -> dict[str, int]:
        """How many rows each class has, in the order of `labels`; empty for `causal-lm`."""
        if self.classes is None:
            return {}
        counts = Counter(self.classes.tolist())
        return {name: counts[position] for position, name in enumerate(self.labels)}
