"""The lane: what the cohort layers of one model look at while a pass goes through them."""

from collections.abc import Mapping

import torch

from fedtune.cohort.drops import Drops
from fedtune.cohort.layout import Layout, Spans


class Lane:
    """The layout of the pass that is under way and each client's tensors in it, by canonical name.

    One lane belongs to one model; the pass sets `layout` and `drops` before any layer runs, the step sets `tensors`
    before that.
    """

    def __init__(self) -> None:
        self.tensors: Mapping[str, torch.Tensor] = {}
        """(K, *shape): what each of the pass's K clients has in the place of the adapter's tensor of this name."""
        self.drops: Drops | None = None
        """The masks of the pass; None where nothing is dropped."""
        self._layout = Layout(())
        self._spans: dict[int, Spans] = {}

    @property
    def layout(self) -> Layout:
        """Which rows and tokens of the pass are whose."""
        return self._layout

    @layout.setter
    def layout(self, layout: Layout) -> None:
        self._layout, self._spans = layout, {}

    def spans(self, count: int) -> Spans:
        """`layout.spans(count)`, reckoned once a pass."""
        if count not in self._spans:
            self._spans[count] = self._layout.spans(count)
        return self._spans[count]
