"""What crosses the cuts for one client's share, counted as it is encoded: whatever body it goes to."""

from dataclasses import dataclass

import torch

from fedtune.recipe.split import SplitSection
from fedtune.split.activations import encoded_bytes
from fedtune.split.base import Body, Pending, Smashed, Wants
from fedtune.split.bits import mask_bytes

BODY_UP, BODY_DOWN = "body_up", "body_down"
"""The metrics of a client's update that hold the counts."""


@dataclass(slots=True)
class Crossed:
    """Bytes of activations, masks and gradients as the recipe's codec makes them; headers of messages are left out."""

    up: int = 0
    """From the client."""
    down: int = 0


class CountedBody:
    """A `Body` that notes in `crossed` what goes to another one and comes back.

    Guarantees: a tensor counts once, with the length that `encode` gives it; what a broken stream sends again does not
    count.
    """

    def __init__(self, body: Body, split: SplitSection) -> None:
        self.in_flight, self.trains = body.in_flight, body.trains
        self.crossed = Crossed()
        self._body, self._split = body, split
        self._asked: dict[int, int] = {}

    def forward(self, number: int, smashed: Smashed, wants: Wants, *, train: bool) -> Pending:
        """As the body's; up goes all of `smashed`, down come the tokens of `wants.output`."""
        rows, tokens, width = smashed.hidden.shape
        self.crossed.up += self._size(rows, tokens, width)
        self.crossed.up += 0 if smashed.mask is None else mask_bytes(rows, tokens)
        self.crossed.down += self._size(rows, _count(wants.output, tokens), width)
        if wants.gradient is not None:
            self._asked[number] = _count(wants.gradient, tokens)
        return self._body.forward(number, smashed, wants, train=train)

    def backward(self, number: int, gradient: torch.Tensor) -> Pending:
        """As the body's; up goes the gradient, down come the tokens of `wants.gradient`."""
        rows, tokens, width = gradient.shape
        self.crossed.up += self._size(rows, tokens, width)
        self.crossed.down += self._size(rows, self._asked.pop(number, 0), width)
        return self._body.backward(number, gradient)

    def step(self, factor: float, *, last: bool) -> None:
        """As the body's; a step is a header."""
        self._body.step(factor, last=last)

    def close(self) -> None:
        """Close the body; the counts stay."""
        self._body.close()

    def _size(self, rows: int, tokens: int, width: int) -> int:
        return encoded_bytes((rows, tokens, width), self._split.activations, self._split.topk) if tokens else 0


def _count(chosen: slice, tokens: int) -> int:
    return len(range(tokens)[chosen])
