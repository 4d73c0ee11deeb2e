"""One client's numbers at the coordinator: what is asked, what is kept for it, what is answered and not yet taken."""

import math
import time
from collections import deque
from dataclasses import replace

from fedtune.errors import MalformedMessage, OversizeMessage
from fedtune.split.activations import Shape
from fedtune.split.asks import (
    Answer,
    BackwardAsk,
    Coding,
    ForwardAsk,
    Packed,
    StepAsk,
    Stepped,
    Way,
    check_span,
    output_shape,
)
from fedtune.split.bits import mask_bytes
from fedtune.split.copies import BodyCopy
from fedtune.split.entry import Entry, Graph
from fedtune.split.limits import FP32_BYTES, SplitLimits


class Session:
    """Lives under the lock of the server that it belongs to.

    Guarantees: no number is computed twice, but for a graph that had to go; an answer is kept until it is acknowledged,
    and goes out again over the next connection. `close` and `detach` free what they say when they return.
    """

    def __init__(
        self, client: str, id_: str, coding: Coding, width: int, limits: SplitLimits, copy: BodyCopy | None = None
    ) -> None:
        self.client = client
        self.id = id_
        self.copy = copy
        """What is trained of the body for this client; None where nothing is, and when the session is over."""
        self.trains = copy is not None
        self.closed = False
        self.connected = True
        """Does anybody wait for answers? Without, no graph is kept."""
        self.failure: Exception | None = None
        """Why nothing more is computed for this client."""
        self.entries: dict[int, Entry] = {}
        self.served = 0
        """When it was last served, in passes of the body."""
        self._coding = coding
        self._width = width
        self._limits = limits
        self._highest = -1
        self._last_done = time.monotonic()
        self._outbox: deque[Answer] = deque()
        self._steps = 0
        self._told = 0
        """Steps that this connection was told of."""

    # -- what the client says

    def forward(self, ask: ForwardAsk) -> Entry | None:
        """A micro-batch came: what to compute, or None where it is known.

        Raises:
            MalformedMessage: numbers out of order, or a tensor that does not fit.
            OversizeMessage: more in flight, or more bytes, than the limits allow.
        """
        if ask.number <= self._highest:
            return None  # it is being worked on, is answered over this connection anyway, or was acknowledged
        self.check_forward(ask)
        if len(ask.hidden.data) != self._coding.size(ask.hidden.shape):
            raise MalformedMessage(f"micro-batch {ask.number} is cut short")
        self._highest = ask.number
        owed = time.monotonic() if ask.silent else None
        entry = self.entries[ask.number] = Entry(self, ask, self._need(ask), computed=ask.silent, owed_since=owed)
        self._make_room()
        return entry

    def check_forward(self, ask: ForwardAsk) -> None:
        """What is known before the tensor's bytes have come; `hidden.data` is not looked at. Raises as `forward`."""
        batch, tokens, width = ask.hidden.shape
        if min(batch, tokens) < 1 or width != self._width:
            raise MalformedMessage(f"activations of shape {ask.hidden.shape} for a body of width {self._width}")
        if ask.mask and len(ask.mask) != mask_bytes(batch, tokens):
            raise MalformedMessage(f"a mask of {len(ask.mask)} bytes for {batch} rows of {tokens} tokens")
        check_span(ask.output, tokens)
        if ask.gradient is not None and not (self.trains and ask.gradient == (0, 0)):
            check_span(ask.gradient, tokens)
        self._check_size(ask.hidden.shape)
        if sum(entry.need for entry in self.entries.values()) + self._need(ask) > self._limits.max_bytes:
            raise OversizeMessage(
                f"micro-batches of more than {self._limits.max_bytes} bytes are in flight; "
                "lower split.in_flight or training.batch_size"
            )
        if ask.number > self._highest and len(self.entries) >= self._limits.in_flight:
            raise OversizeMessage(f"{len(self.entries)} micro-batches are in flight; no more may be")

    def backward(self, ask: BackwardAsk) -> Entry | None:
        """A gradient came: what to compute, or None where it is known; raises as `forward`."""
        entry = self.check_backward(ask)
        if entry is None or entry.back is not None or self._answered(entry, "backward"):
            return None
        if len(ask.gradient.data) != self._coding.size(ask.gradient.shape):
            raise MalformedMessage(f"the gradient of micro-batch {ask.number} is cut short")
        entry.back, entry.answer, entry.owed_since = ask, None, None
        return entry

    def check_backward(self, ask: BackwardAsk) -> Entry | None:
        """The micro-batch that a gradient belongs to, None where it is done; `data` is not looked at."""
        self._check_size(ask.gradient.shape)
        entry = self.entries.get(ask.number)
        if entry is None:
            if ask.number <= self._highest:
                return None
            raise MalformedMessage(f"a gradient for micro-batch {ask.number}, which was not sent")
        if entry.ask.gradient is None or not entry.computed:
            raise MalformedMessage(f"a gradient for micro-batch {ask.number}, which waits for none")
        if ask.gradient.shape != output_shape(entry.ask):
            raise MalformedMessage(
                f"a gradient of shape {ask.gradient.shape} for an output of shape {output_shape(entry.ask)}"
            )
        return entry

    def step(self, ask: StepAsk) -> None:
        """The client's optimiser step is over; one that is known is acknowledged again.

        Raises MalformedMessage where nothing is trained, for a step out of order or before the gradients it covers, and
        for rates that cannot be.
        """
        if ask.number < self._steps:
            self._told = min(self._told, ask.number)
            return
        waits = any(e.ask.gradient is not None and not self._answered(e, "backward") for e in self.entries.values())
        if self.copy is None or ask.number > self._steps or waits:
            raise MalformedMessage(f"step {ask.number} comes before what it follows, or where no body is trained")
        if not 0 <= ask.factor <= 1:
            raise MalformedMessage(f"a step at {ask.factor} times the peak rates")
        self._steps, self._last_done = self._steps + 1, time.monotonic()
        self.copy.step(ask.factor, last=ask.last)

    def acknowledge(self, number: int, way: Way) -> None:
        """The client has this answer; what was kept for it alone goes."""
        entry = self.entries.get(number)
        if entry is None or not self._answered(entry, way):
            return
        entry.answer = None
        if way == "backward" or entry.ask.gradient is None:
            self._forget(entry)

    def held(self) -> tuple[list[int], list[int]]:
        """The numbers whose forward, and those whose backward, need not be sent again."""
        back = [n for n, entry in self.entries.items() if entry.back or self._answered(entry, "backward")]
        return list(self.entries), back

    # -- what is computed

    def answer(self, entry: Entry, answer: Answer) -> None:
        """The body has done its work on a micro-batch."""
        if self.closed or self.entries.get(answer.number) is not entry:
            return
        entry.computed = True
        entry.answer, entry.owed_since = answer, time.monotonic()
        if answer.way == "backward":
            entry.back = None
            if entry.graph is not None:
                entry.graph.leave(entry)
        if answer.way == "backward" or entry.ask.gradient is None:
            entry.ask = replace(entry.ask, hidden=Packed(entry.ask.hidden.shape, b""))
        self._outbox.append(answer)

    def keep(self, entry: Entry, graph: Graph) -> bool:
        """Is there room for this graph? Then it is kept."""
        entry.graph = graph
        if self.closed or not self.connected or self._needed() > self._limits.max_bytes:
            entry.graph = None
        return entry.graph is not None

    def fail(self, error: Exception) -> None:
        """Nothing more can be computed for this client."""
        self.failure = self.failure or error
        self.close()

    def next_answer(self) -> Answer | Stepped | None:
        """The next thing to send; an answer stays kept until it is acknowledged."""
        if self._told < self._steps:
            self._told = self._steps
            return Stepped(self._steps)
        while self._outbox:
            answer = self._outbox.popleft()
            entry = self.entries.get(answer.number)
            if entry is not None and entry.answer is answer:
                return answer
        return None

    # -- when the connection changes

    def attach(self) -> None:
        """A connection is there: all answers that are not acknowledged go out again."""
        self.connected = True
        self._told = 0
        self._outbox = deque(entry.answer for entry in self.entries.values() if entry.answer is not None)

    def detach(self) -> None:
        """The connection is gone: free every graph; inputs and answers stay."""
        self.connected = False
        for entry in self.entries.values():
            if entry.graph is not None:
                entry.graph.drop()

    def close(self) -> None:
        """Free everything."""
        self.closed = True
        self.detach()
        self.entries.clear()
        self._outbox.clear()
        self.copy = None

    def idle_s(self, now: float) -> float:
        """How long the client has owed something, at the monotonic time `now`; 0 while the body is at work alone."""
        if not self.entries:
            return now - self._last_done
        return now - min((e.owed_since for e in self.entries.values() if e.owed_since is not None), default=now)

    @property
    def held_bytes(self) -> int:
        """Everything that is kept for this client."""
        return sum(entry.held_bytes for entry in self.entries.values())

    @property
    def graphs(self) -> int:
        """How many micro-batches wait for their gradient with a graph."""
        return sum(entry.graph is not None for entry in self.entries.values())

    @staticmethod
    def _answered(entry: Entry, way: Way) -> bool:
        return entry.answer is not None and entry.answer.way == way

    def _check_size(self, shape: Shape) -> None:
        if math.prod(shape) * FP32_BYTES > self._limits.max_tensor_bytes:
            raise OversizeMessage(
                f"activations of shape {shape} are over the split's limit of {self._limits.max_tensor_bytes} bytes; "
                "lower training.batch_size"
            )

    def _need(self, ask: ForwardAsk) -> int:
        """The input, and the output or the gradient by it; when the input's gradient is there, both have gone."""
        return self._coding.size(ask.hidden.shape) + self._coding.size(output_shape(ask)) + len(ask.mask)

    def _make_room(self) -> None:
        """Graphs go, the oldest first, where they and what else will be kept are too much together."""
        for entry in list(self.entries.values()):
            if self._needed() <= self._limits.max_bytes:
                return
            if entry.graph is not None:
                entry.graph.drop()

    def _needed(self) -> int:
        return sum(e.need + (e.graph.share_of(e) if e.graph else 0) for e in self.entries.values())

    def _forget(self, entry: Entry) -> None:
        if entry.graph is not None:
            entry.graph.leave(entry)
        self.entries.pop(entry.ask.number, None)
        self._last_done = time.monotonic()
