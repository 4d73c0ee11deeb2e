"""Encoded tables, one class a task: everything is held once, however many clients share it."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

import numpy as np
import torch
from PIL import Image

from fedtune.data.base import Batch
from fedtune.data.images import open_image
from fedtune.data.ragged import Ints, Ragged

IGNORED = -100
"""The label of a position that the loss does not see."""
MAX_DECODED_BYTES = 512 * 2**20
"""How much of a table's decoded images is kept; the rest is decoded anew for each batch."""


class Store(Protocol):
    """What `EncodedRows` looks into."""

    @property
    def lengths(self) -> Ints:
        """The cost of each row in tokens (one for an image)."""
        ...

    @property
    def classes(self) -> Ints | None:
        """The class of each row as a position in `model.labels`; None for `causal-lm`."""
        ...

    def batch(self, rows: Ints) -> Batch:
        """The rows as the model takes them."""
        ...


class TextStore:
    """Sequence classification: token ids and one class a row."""

    def __init__(self, ids: Ragged, classes: Ints, pad_id: int) -> None:
        self.lengths, self.classes = ids.lengths, classes
        self._ids, self._pad_id = ids, pad_id

    def batch(self, rows: Ints) -> Batch:
        """`input_ids`, `attention_mask` (N, T) and `labels` (N,), all int64."""
        ids_NT, mask_NT = self._ids.padded(rows, self._pad_id)
        labels_N = torch.from_numpy(self.classes[rows])
        return {"input_ids": ids_NT, "attention_mask": mask_NT, "labels": labels_N}

    def flat(self, rows: Ints) -> Ints:
        """The tokens of the rows end to end, (N,) int64."""
        return np.concatenate([self._ids.row(int(row)) for row in rows]).astype(np.int64)


class AnswerStore:
    """Causal LM: token ids and where each row's answer starts."""

    classes: Ints | None = None

    def __init__(self, ids: Ragged, answer_starts: Ints, pad_id: int) -> None:
        self.lengths = ids.lengths
        self._ids, self._answer_starts, self._pad_id = ids, answer_starts, pad_id

    def batch(self, rows: Ints) -> Batch:
        """`input_ids`, `attention_mask`, `labels` (N, T), all int64; labels are -100 outside the answer."""
        ids_NT, mask_NT = self._ids.padded(rows, self._pad_id)
        starts_N1 = torch.from_numpy(self._answer_starts[rows])[:, None]
        # By position, not by id: where pad and end share an id, the end of the answer is still learned.
        learned_NT = (mask_NT == 1) & (torch.arange(ids_NT.shape[1])[None, :] >= starts_N1)
        return {
            "input_ids": ids_NT,
            "attention_mask": mask_NT,
            "labels": ids_NT.masked_fill(~learned_NT, IGNORED),
        }


class ImageStore:
    """Image classification: files as they came, and one class a row."""

    def __init__(
        self,
        cells: Sequence[Mapping[str, Any]],
        classes: Ints,
        transform: Callable[[Image.Image], torch.Tensor],
        max_decoded_bytes: int = MAX_DECODED_BYTES,
    ) -> None:
        self.lengths, self.classes = np.ones(len(cells), dtype=np.int64), classes
        self._cells, self._transform = cells, transform
        self._decoded: dict[int, torch.Tensor] = {}
        self._room_bytes = max_decoded_bytes

    def batch(self, rows: Ints) -> Batch:
        """`pixel_values` (N, C, H, W) float32 and `labels` (N,) int64; DataError for an image that cannot be read."""
        pixels_NCHW = torch.stack([self._pixels(int(row)) for row in rows])
        return {"pixel_values": pixels_NCHW, "labels": torch.from_numpy(self.classes[rows])}

    def _pixels(self, row: int) -> torch.Tensor:
        kept = self._decoded.get(row)
        if kept is not None:
            return kept
        pixels_CHW = self._transform(open_image(self._cells[row], row))
        size = pixels_CHW.element_size() * pixels_CHW.numel()
        if size <= self._room_bytes:
            self._decoded[row] = pixels_CHW
            self._room_bytes -= size
        return pixels_CHW
