"""One micro-batch at the coordinator, and what autograd keeps for it."""

from collections.abc import Collection
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from fedtune.split.asks import Answer, BackwardAsk, ForwardAsk

if TYPE_CHECKING:
    from fedtune.split.session import Session


class Graph(Protocol):
    """What autograd keeps of a pass through the body."""

    def share_of(self, entry: "Entry") -> int:
        """The bytes that are kept for this micro-batch."""
        ...

    def waiting(self) -> Collection["Entry"]:
        """The micro-batches that share the graph and still wait for a gradient."""
        ...

    def leave(self, entry: "Entry") -> None:
        """This micro-batch is done; the last one frees the graph."""
        ...

    def drop(self) -> None:
        """Free the graph now, for all who share it; they compute it again where they need it."""
        ...


@dataclass(slots=True, eq=False)
class Entry:
    """One micro-batch."""

    session: "Session"
    ask: ForwardAsk
    need: int
    """The most bytes that are ever kept for it beside a graph."""
    graph: Graph | None = None
    computed: bool = False
    """Has the client got the output, or will it?"""
    back: BackwardAsk | None = None
    answer: Answer | None = None
    """What was computed last and is not acknowledged."""
    owed_since: float | None = None
    """When the body had done what was asked, on the monotonic clock; None while it is at work."""

    @property
    def held_bytes(self) -> int:
        """What is kept for this micro-batch: input, gradient, answer and graph."""
        held = len(self.ask.hidden.data) + len(self.ask.mask) + (self.graph.share_of(self) if self.graph else 0)
        held += len(self.back.gradient.data) if self.back else 0
        return held + (len(self.answer.tensor.data) if self.answer else 0)
