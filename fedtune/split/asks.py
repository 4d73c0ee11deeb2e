"""What a client asks of a body and what it is answered, as bytes and numbers: the same on both ends of a stream."""

from dataclasses import dataclass
from typing import Literal

import torch

from fedtune.errors import MalformedMessage
from fedtune.split.activations import Kind, Shape, decode, encode, encoded_bytes

Span = tuple[int, int]
"""Tokens from the first up to, without it, the second."""
Way = Literal["forward", "backward"]


@dataclass(frozen=True, slots=True)
class Coding:
    """How numbers cross the cuts."""

    kind: Kind = "fp32"
    topk: float = 0.1

    def pack(self, tensor: torch.Tensor) -> "Packed":
        """A (B, T, D) tensor as bytes; raises TrainingError where it is not finite."""
        batch, tokens, width = tensor.shape
        return Packed((batch, tokens, width), encode(tensor, self.kind, self.topk) if tokens else b"")

    def unpack(self, packed: "Packed", device: torch.device | str = "cpu") -> torch.Tensor:
        """The fp32 tensor on `device`; raises MalformedMessage."""
        if not packed.shape[1]:
            return torch.zeros(packed.shape, device=device)
        return decode(packed.data, packed.shape, self.kind, self.topk, device=device)

    def size(self, shape: Shape) -> int:
        """The bytes of a tensor of this shape; none without tokens."""
        return encoded_bytes(shape, self.kind, self.topk) if shape[1] else 0


@dataclass(frozen=True, slots=True)
class Packed:
    """A tensor on its way."""

    shape: Shape
    data: bytes | bytearray


@dataclass(frozen=True, slots=True)
class ForwardAsk:
    """Send a micro-batch through the body."""

    number: int
    hidden: Packed
    mask: bytes
    """Packed bits; empty where every token is there."""
    output: Span
    """The tokens that are wanted of the body's output."""
    gradient: Span | None
    """The tokens whose gradient will be wanted; None where nothing has to be kept for it, and an empty stretch where a
    trained body alone needs the way back."""
    silent: bool = False
    """Is the output known to the client already? Then the input is kept alone."""


@dataclass(frozen=True, slots=True)
class BackwardAsk:
    """Send the gradient by the wanted output back through the body."""

    number: int
    gradient: Packed


@dataclass(frozen=True, slots=True)
class StepAsk:
    """Take an optimiser step with the gradients that have come back since the last one."""

    number: int
    """Steps are numbered by the client too, from 0 up."""
    factor: float
    """The share of the peak rates."""
    last: bool
    """Does no training follow?"""


@dataclass(frozen=True, slots=True)
class Answer:
    """The wanted tokens of the output, or of the gradient."""

    number: int
    way: Way
    tensor: Packed


@dataclass(frozen=True, slots=True)
class Stepped:
    """So many steps are with the body: they need not be said again."""

    count: int


Ask = ForwardAsk | BackwardAsk | StepAsk


def span_of(wanted: slice, tokens: int) -> Span:
    """The tokens of a slice; raises ValueError where it steps over some."""
    start, stop, step = wanted.indices(tokens)
    if step != 1:
        raise ValueError(f"{wanted} leaves tokens out; what crosses a cut is one stretch of tokens")
    return start, max(start, stop)


def check_span(span: Span, tokens: int) -> None:
    """Raises MalformedMessage unless the stretch is inside of `tokens` and not empty."""
    if not 0 <= span[0] < span[1] <= tokens:
        raise MalformedMessage(f"tokens {span[0]} to {span[1]} are wanted of a micro-batch of {tokens}")


def output_shape(ask: ForwardAsk) -> Shape:
    """(B, T', D) of the answer to a forward, and of the gradient that follows it."""
    batch, _, width = ask.hidden.shape
    return batch, ask.output[1] - ask.output[0], width


def gradient_shape(ask: ForwardAsk) -> Shape:
    """(B, T'', D) of the answer to a backward; raises ValueError where none is wanted."""
    if ask.gradient is None:
        raise ValueError(f"no gradient is wanted of micro-batch {ask.number}")
    batch, _, width = ask.hidden.shape
    return batch, ask.gradient[1] - ask.gradient[0], width
