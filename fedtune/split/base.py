"""The contract of a split model: what crosses the cuts, and what a body does with it, wherever the body is."""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Protocol

import torch


@dataclass(frozen=True, slots=True)
class Smashed:
    """The activations of one micro-batch at a cut."""

    hidden: torch.Tensor
    """(B, T, D): tokens after the last layer on this side, soft prompts among them."""
    mask: torch.Tensor | None = None
    """(B, T): 1 where a token is there, 0 where there is padding; None where every token is there."""


@dataclass(frozen=True, slots=True)
class Wants:
    """Which tokens' share of a tensor has to cross a cut; the mathematics leaves out the others.

    A tail without layers reads a classification's first token alone; a prompt that is put in at the cut needs the
    gradient of its own tokens alone, and a client that trains nothing before the cut needs none.
    """

    output: slice = field(default_factory=lambda: slice(None))
    """The tokens of the body's output that the tail reads."""
    gradient: slice | None = field(default_factory=lambda: slice(None))
    """The tokens at the first cut whose gradient the client needs; None where it needs none, and an empty stretch where
    the body alone needs the way back."""

    def of_trained(self) -> "Wants":
        """The same where the body is trained: every micro-batch goes back, if for the body alone."""
        return replace(self, gradient=slice(0, 0)) if self.gradient is None else self


class Pending(Protocol):
    """An answer that may still be on its way."""

    def result(self) -> torch.Tensor:
        """Wait for the tensor: fp32, on the CPU for a body elsewhere, else on the body's device.

        Raises TransportError where it will not come.
        """
        ...


class Body(Protocol):
    """The layers between the cuts for one client's share of one round.

    Micro-batches are numbered by the client, from 0 up, each number once. Several may be in flight; answers may be
    asked for in any order. `backward` of a number follows the result of its `forward`, at most once.

    Guarantees: what an answer is depends on its own micro-batch alone (to rounding, where a body serves several clients
    in one pass), and where the body is trained on the steps before it; a frozen body's weights are the same after a
    round.
    """

    in_flight: int
    """How many micro-batches may be on their way at once, at least 1."""
    trains: bool
    """Is a copy of the body trained for this share? Then every micro-batch of training goes back through it."""

    def forward(self, number: int, smashed: Smashed, wants: Wants, *, train: bool) -> Pending:
        """Send a micro-batch through the body: (B, T', D) for the tokens of `wants.output`.

        Without `train`, and where `wants.gradient` is None, nothing is kept for a `backward`.
        """
        ...

    def backward(self, number: int, gradient: torch.Tensor) -> Pending:
        """Send the gradient of the loss by the body's output, (B, T', D), back through it.

        The answer is the gradient by the tokens of `wants.gradient` at the first cut.
        """
        ...

    def step(self, factor: float, *, last: bool) -> None:
        """An optimiser step of the client: the trained copy takes one too, at `factor` times its peak rates.

        Follows the answers to all of the step's `backward`s. With `last` no training follows, and the body has taken
        every step when this returns. Raises TransportError where it does not answer.
        """
        ...

    def close(self) -> None:
        """The share is done, or given up: whatever is kept for it is let go of. May be called twice."""
        ...


@dataclass(frozen=True, slots=True)
class Share:
    """Whose micro-batches they are."""

    run: str
    round: int
    client: str


OpenBody = Callable[[Share], Body]
"""Where a client's local step gets a body from: this process's own, or the coordinator's over a stream."""
