"""FLOPs by formula: what a row costs in layers that are looked through, passed or trained.

A multiplication with an addition counts as two. Of T tokens a linear map with m outputs and n inputs takes 2·T·m·n, and
attention over heads of A numbers in all 4·T²·A (queries with keys, weights with values; masked pairs are counted, as
PyTorch's own counter does). The way back takes as much again for the gradient by the input (of attention twice as much)
and 2·T·m·n for that of a weight that is trained. Norms, activation functions, softmax and embeddings are left out.
"""

from collections.abc import Iterable
from dataclasses import dataclass

from fedtune.split.outline import Map, Outline


@dataclass(frozen=True, slots=True)
class RowFlops:
    """FLOPs of one row."""

    outline: Outline
    tokens: int
    """In the layers, soft prompts among them."""
    own: int
    """Without soft prompts."""
    adapters: tuple[Map, ...] = ()
    """The maps that an adapter adds to a trained layer."""
    full: bool = True
    """Are a trained layer's own weights trained?"""

    @property
    def forward(self) -> int:
        """One layer, without adapters."""
        return self._linear + self._attention

    @property
    def through(self) -> int:
        """The way back through one frozen layer: the gradient by its input."""
        return self._linear + 2 * self._attention

    @property
    def adapted(self) -> int:
        """The forward pass of one layer with its adapters."""
        return self.forward + self._adapters

    @property
    def back(self) -> int:
        """The way back through one trained layer: gradients by its input and by what is trained of it."""
        return self.through + self.full * self._linear + 2 * self._adapters

    @property
    def embed(self) -> int:
        """Patches into tokens; looking a text's tokens up costs nothing."""
        return 0 if self.outline.patch is None else 2 * (self.own - 1) * _numbers([self.outline.patch])

    @property
    def ends(self) -> int:
        """The task head: one token of a classification, all of the row's own of a causal LM."""
        reads = self.own if self.outline.family.task == "causal-lm" else 1
        return 2 * reads * _numbers(self.outline.head_maps.values())

    @property
    def _linear(self) -> int:
        return 2 * self.tokens * _numbers(self.outline.maps.values())

    @property
    def _attention(self) -> int:
        return 4 * self.tokens**2 * self.outline.attention

    @property
    def _adapters(self) -> int:
        return 2 * self.tokens * _numbers(self.adapters)


@dataclass(frozen=True, slots=True)
class Stack:
    """Layers that a row passes one after the other."""

    before: int = 0
    """Frozen layers that no gradient comes back to."""
    through: int = 0
    """Frozen layers that a gradient passes."""
    trained: int = 0

    def forward(self, row: RowFlops) -> int:
        """The layers' forward passes."""
        return (self.before + self.through) * row.forward + self.trained * row.adapted

    def backward(self, row: RowFlops) -> int:
        """The gradients' way back."""
        return self.through * row.through + self.trained * row.back


def _numbers(maps: Iterable[Map]) -> int:
    return sum(out * in_ for out, in_ in maps)
