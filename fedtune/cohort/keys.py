"""What names a row, so that what was computed of it is found again."""

import hashlib
from collections.abc import Hashable, Sequence

import torch

from fedtune.cohort.pack import Packed
from fedtune.data.base import Rows
from fedtune.data.rows import EncodedRows


def text_keys(packed: Packed) -> list[Hashable]:
    """A name for each row of a stream: its tokens, and which of them are read. Rows that say the same share it."""
    lengths, reads = packed.stream.lengths, packed.stream.reads
    ids = torch.split(packed.ids.int(), list(lengths))
    places = torch.split(packed.inside.int(), list(reads))
    return [(i.numpy().tobytes(), p.numpy().tobytes()) for i, p in zip(ids, places, strict=True)]


def image_keys(rows: Rows, indices: Sequence[int]) -> list[Hashable]:
    """A name for each image: its place in an encoded table, or else a print of its pixels."""
    if isinstance(rows, EncodedRows):
        return list(rows.keys(indices))
    return [hashlib.blake2b(p.numpy().tobytes()).digest() for p in rows.batch(indices)["pixel_values"].contiguous()]
