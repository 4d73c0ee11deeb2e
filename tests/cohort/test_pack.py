"""A stream says the same of rows whether they were padded on the way or not."""

from collections.abc import Sequence

import numpy as np
import torch
from hypothesis import given
from hypothesis import strategies as st

from fedtune.cohort.pack import Packed, counted, pack
from fedtune.data.base import Batch
from fedtune.data.ragged import Ragged
from fedtune.data.rows import EncodedRows
from fedtune.data.store import IGNORED, TextStore

CPU = torch.device("cpu")
TEXTS = st.lists(st.tuples(st.integers(0, 6), st.sampled_from([0, 1, 2, IGNORED])), min_size=1, max_size=6)


class Padded:
    """Rows that give nothing but padded batches."""

    def __init__(self, rows: EncodedRows) -> None:
        self._rows = rows

    def __len__(self) -> int:
        return len(self._rows)

    def batch(self, indices: Sequence[int]) -> Batch:
        return self._rows.batch(indices)


class Counted(Padded):
    """Rows that count how often they are read."""

    reads = 0

    def batch(self, indices: Sequence[int]) -> Batch:
        self.reads += 1
        return super().batch(indices)


def said(packed: Packed | None) -> object:
    """All of it, to be compared."""
    if packed is None:
        return None
    tensors = (packed.ids, packed.positions, packed.inside, packed.targets, packed.owners, packed.stream.read)
    return [t.tolist() for t in tensors], packed.stream.rows, packed.stream.lengths, packed.stream.reads, packed.rows


@given(st.lists(TEXTS, min_size=1, max_size=3), st.randoms(use_true_random=False))
def test_texts_end_to_end_are_those_of_padded_batches(parts, draw) -> None:
    rows = []
    for texts in parts:
        ids = Ragged([[5 + draw.randrange(20) for _ in range(length)] for length, _ in texts])
        table = EncodedRows(TextStore(ids, np.array([label for _, label in texts]), pad_id=0))
        rows.append((table, draw.sample(range(len(table)), draw.randint(0, len(table)))))
    plain = pack(rows, counted, CPU)
    assert said(plain) == said(pack([(Padded(table), some) for table, some in rows], counted, CPU))


@given(st.lists(TEXTS, min_size=1, max_size=3), st.randoms(use_true_random=False))
def test_rows_that_are_parts_by_themselves_are_read_together_and_stay_apart(parts, draw) -> None:
    """However a table's rows are cut into parts, the stream is the same, and each part has those of its own."""
    whole, cut, tables = [], [], []
    for texts in parts:
        ids = Ragged([[5 + draw.randrange(20) for _ in range(length)] for length, _ in texts])
        labels = [label for _, label in texts]
        table = Counted(EncodedRows(TextStore(ids, np.array(labels), pad_id=0)))
        tables.append(table)
        chosen = draw.sample(range(len(table)), draw.randint(0, len(table)))
        whole.append((table, chosen))
        while chosen:
            size = draw.randint(1, 3)
            some, chosen = chosen[:size], chosen[size:]
            cut.append((table, some, sum(labels[row] != IGNORED for row in some)))
            cut += [(table, [], 0)] * draw.randint(0, 1)
    together, apart = pack(whole, counted, CPU), pack([(table, some) for table, some, _ in cut], counted, CPU)
    if together is None or apart is None:
        assert together is apart is None
        return
    assert apart.stream.rows == tuple(count for _, _, count in cut)
    assert said(apart)[0] == said(together)[0]
    assert said(apart)[2:] == said(together)[2:]
    assert all(table.reads <= 2 for table in tables)


def test_only_classified_texts_are_read_without_padding() -> None:
    table = EncodedRows(TextStore(Ragged([[5, 6], [], [7]]), np.array([0, 1, IGNORED]), pad_id=0))
    texts = table.texts([0, 0])
    assert texts is not None
    assert [part.tolist() for part in texts] == [[5, 6, 5, 6], [2, 2], [0, 0]]
    assert table.texts([0, 1]) is None
    assert table.texts([0, 2]) is None
