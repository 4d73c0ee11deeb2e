"""The contract of a pass: rows of several clients in, what was predicted for them out, each with its own adapter.

How a pass is computed (padded, packed, with parts of it kept from before) is an implementation; the numbers are the
same up to rounding.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import torch

from fedtune.adapters.shift import Shift
from fedtune.data.base import Rows

Part = tuple[Rows, Sequence[int]]
"""One client's rows, and the positions of those that take part."""


@dataclass(frozen=True, slots=True)
class Predicted:
    """What a pass predicts and what it should have: a class a row, or an id for each answer token.

    Shape suffixes: M = targets of all parts, V = classes or vocabulary.
    """

    logits: torch.Tensor
    """(M, V), with their graph; of autocast's dtype under it."""
    targets: torch.Tensor
    """(M,) int64, none of them ignored, on the device."""
    owners: torch.Tensor
    """(M,) int64 on the device: which row of the pass, counted through all parts, each target belongs to."""


class Pass(Protocol):
    """Forward passes of one resident model whose adapted layers are cohort layers, which look at one `Lane`.

    It lives as long as the resident, round after round. What it calls it calls under `resident.autocast()`. Modules are
    looked up in the model when a pass runs: the cohort layers are in place only then.

    Guarantees: what is predicted for a row depends on the row and its client's tensors alone, up to rounding; numbers
    that are not finite stay with the client that has them (so no mask may multiply them by zero). What is dropped of a
    row is drawn by its own seed; nothing else is drawn.
    """

    @property
    def saves(self) -> bool:
        """Does it compute less than the model's own pass, for one client alone too?"""
        ...

    def begin(self, shift: Shift) -> None:
        """Say what is added to the base weights in the passes that follow: kept results of others are of no use."""
        ...

    def close(self) -> None:
        """Forget what is kept of rows; what follows is computed anew, and kept again."""
        ...

    def notes(self) -> tuple[str, ...]:
        """What is not computed, or not each time, for a person; empty where everything is."""
        ...

    def tokens(self, part: Part) -> list[int]:
        """What each row of a part costs, in tokens of the stream: what passes are filled up by."""
        ...

    def logits(self, parts: Sequence[Part], seeds: Sequence[int] = ()) -> Predicted:
        """One forward pass over all parts, one part for each client of `lane.tensors`, in that order.

        `seeds` are what each row's dropout is drawn by, all parts' rows one after the other; none where nothing is
        dropped. Sets `lane.layout` and `lane.drops` before the first layer runs.
        """
        ...
