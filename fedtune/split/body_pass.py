"""One pass through the body for the micro-batches of one client or several, and what autograd keeps of it."""

from collections.abc import Callable, Collection, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass

import torch
from torch import nn
from torch.nn.functional import pad

from fedtune.split.asks import Coding
from fedtune.split.bits import unpack_mask
from fedtune.split.copies import BodyCopy
from fedtune.split.entry import Entry

Rows = tuple[int, int, int]
"""The rows of a micro-batch in a pass, from and to, and its tokens."""
Input = tuple[torch.Tensor, torch.Tensor | None]
"""(B, T, D) and the mask (B, T), None where every token is there."""


@dataclass(frozen=True, slots=True)
class Engine:
    """A body and how it is called."""

    body: nn.Module
    """(B, T, D), mask (B, T) or None -> (B, T, D); of what is trained of it each session has a copy."""
    device: torch.device
    coding: Coding
    autocast: Callable[[], AbstractContextManager[object]] = nullcontext
    """The precision of a pass, as a context."""

    def read(self, entry: Entry) -> Input:
        """The input of a micro-batch and its mask, on the device; raises MalformedMessage where it is damaged."""
        batch, tokens, _ = entry.ask.hidden.shape
        mask = unpack_mask(entry.ask.mask, batch, tokens, device=self.device)
        return self.coding.unpack(entry.ask.hidden, self.device), mask

    def run(self, inputs: Mapping[Entry, Input], *, keep: bool) -> "Pass":
        """Send micro-batches through the body in one pass; several are padded to the longest of them.

        With `keep` autograd keeps what `Pass.back` needs. One micro-batch alone is computed as it would be in the
        client's own process.
        """
        (hidden, mask), places = _join(list(inputs.values()))
        copy = next(iter(inputs)).session.copy  # who has one shares no pass
        with torch.enable_grad() if keep else torch.no_grad(), _Counting(self.body, copy, counts=keep) as counted:
            leaf = hidden.requires_grad_(keep)
            with self.autocast():
                made: torch.Tensor = self.body(leaf, mask) if copy is None else copy.run(leaf, mask, train=keep)
                output = made.to(torch.float32)
        return Pass(dict(zip(inputs, places, strict=True)), leaf, output, counted.bytes, copy)


@dataclass(frozen=True, slots=True)
class Back:
    """The way back through a pass for some of its micro-batches; holds the graph for as long as it lasts."""

    leaf: torch.Tensor
    outputs: Mapping[Entry, torch.Tensor]
    places: Mapping[Entry, Rows]
    last: bool
    """Does nobody else wait for a gradient?"""
    copy: BodyCopy | None

    def run(self, given: Mapping[Entry, torch.Tensor]) -> dict[Entry, torch.Tensor]:
        """(B, T'', D) each: the gradient by the wanted tokens of the inputs, of `given`, that by their outputs.

        Those by the tensors of a copy are added to it.
        """
        wanted = [self.outputs[entry] for entry in given]
        trained = self.copy.parameters if self.copy else ()
        by_input, *of_body = torch.autograd.grad(
            wanted,
            (self.leaf, *trained),
            list(given.values()),
            retain_graph=not self.last,
            allow_unused=bool(trained),
        )
        if self.copy:
            self.copy.add(of_body)
        return {entry: self._cut(entry, by_input) for entry in given}

    def _cut(self, entry: Entry, by_input: torch.Tensor) -> torch.Tensor:
        begin, end, tokens = self.places[entry]
        first, last = entry.ask.gradient or (0, tokens)
        return by_input[begin:end, first:last]


class Pass:
    """The output of one pass, for as long as one of its micro-batches waits for a gradient.

    Guarantees: after `drop`, and after the last `leave`, nothing of the pass is referred to from here.
    """

    def __init__(
        self,
        places: dict[Entry, Rows],
        leaf: torch.Tensor,
        output: torch.Tensor,
        bytes_: int,
        copy: BodyCopy | None = None,
    ) -> None:
        self.places = places
        """Where each micro-batch is that waits for something."""
        self._leaf: torch.Tensor | None = leaf
        self._output: torch.Tensor | None = output
        self._bytes = bytes_
        self._copy = copy
        self._rows = max(end for _, end, _ in places.values())

    def output_of(self, entry: Entry) -> torch.Tensor:
        """(B, T', D): the wanted tokens of a micro-batch's output, without autograd."""
        return self._wanted(entry).detach()

    def back(self, entries: Collection[Entry]) -> Back:
        """The way back for these; raises RuntimeError where the graph was freed."""
        outputs = {entry: self._wanted(entry) for entry in entries}
        if self._leaf is None:
            raise RuntimeError("the graph of this pass was freed")
        last = self.places.keys() <= outputs.keys()
        return Back(self._leaf, outputs, dict(self.places), last=last, copy=self._copy)

    def waiting(self) -> Collection[Entry]:
        """The micro-batches that share the pass and are not done."""
        return self.places.keys()

    def share_of(self, entry: Entry) -> int:
        """The bytes that are kept for this micro-batch: its rows' share of the pass."""
        begin, end, _ = self.places.get(entry, (0, 0, 0))
        return self._bytes * (end - begin) // self._rows

    def leave(self, entry: Entry) -> None:
        """This micro-batch is done; the last one frees the graph."""
        self.places.pop(entry, None)
        entry.graph = None
        if not self.places:
            self._leaf = self._output = self._copy = None

    def drop(self) -> None:
        """Free the graph now: it cannot be freed for one of its micro-batches alone."""
        for entry in list(self.places):
            self.leave(entry)

    def _wanted(self, entry: Entry) -> torch.Tensor:
        if self._output is None:
            raise RuntimeError("the graph of this pass was freed")
        begin, end, _ = self.places[entry]
        first, last = entry.ask.output
        return self._output[begin:end, first:last]


def _join(inputs: list[Input]) -> tuple[Input, list[Rows]]:
    """Micro-batches below each other, padded behind their last token; a mask only where one is needed."""
    places: list[Rows] = []
    for hidden, _ in inputs:
        begin = places[-1][1] if places else 0
        places.append((begin, begin + hidden.shape[0], hidden.shape[1]))
    if len(inputs) == 1:
        return inputs[0], places
    longest = max(tokens for _, _, tokens in places)
    padded = [pad(hidden, (0, 0, 0, longest - hidden.shape[1])) for hidden, _ in inputs]
    if all(mask is None and hidden.shape[1] == longest for hidden, mask in inputs):
        return (torch.cat(padded), None), places
    masks = [hidden.new_ones(hidden.shape[:2], dtype=torch.int64) if mask is None else mask for hidden, mask in inputs]
    return (torch.cat(padded), torch.cat([pad(mask, (0, longest - mask.shape[1])) for mask in masks])), places


class _Counting:
    """Counts the bytes that autograd keeps of a pass, beside the body's weights; each storage once."""

    def __init__(self, body: nn.Module, copy: BodyCopy | None, *, counts: bool) -> None:
        self.bytes = 0
        weights = (*body.parameters(), *body.buffers(), *(copy.parameters if copy else ()))
        self._seen = {tensor.untyped_storage().data_ptr() for tensor in weights}
        self._hooks = torch.autograd.graph.saved_tensors_hooks(self._pack, lambda kept: kept) if counts else None

    def _pack(self, tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in self._seen:
            self._seen.add(storage.data_ptr())
            self.bytes += storage.nbytes()
        # Not the tensor itself: an output that its own node keeps would be a circle that nobody frees.
        return tensor.detach()

    def __enter__(self) -> "_Counting":
        if self._hooks is not None:
            self._hooks.__enter__()
        return self

    def __exit__(self, *_: object) -> None:
        if self._hooks is not None:
            self._hooks.__exit__()
