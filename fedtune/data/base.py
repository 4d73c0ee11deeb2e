"""What data are to the rest of the library: encoded rows that can be counted, indexed and put into a batch."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch

Example = Mapping[str, Any]
"""One encoded row: `input_ids` and `labels` as lists of ints or an int, or `pixel_values` as a tensor (C, H, W)."""

Batch = dict[str, torch.Tensor]
"""Keyword arguments of the model's forward pass: `input_ids`, `attention_mask`, `labels` or `pixel_values`."""


class Rows(Protocol):
    """Encoded rows of one client or of the central test set."""

    def __len__(self) -> int:
        """How many rows."""
        ...

    def batch(self, indices: Sequence[int]) -> Batch:
        """The rows at `indices`, padded on the right to the longest of them, as CPU tensors."""
        ...


@dataclass(frozen=True, slots=True)
class ClientData:
    """What one client holds: rows that it learns from and rows that it only evaluates on."""

    train: Rows
    holdout: Rows | None = None
    notes: Mapping[str, Any] = field(default_factory=dict)
    """What a local report may show, such as the count of each label; never sent."""
