"""A client's micro-batches at a body elsewhere, without I/O: what to send, what is kept until it is answered."""

from collections import OrderedDict, deque
from collections.abc import Collection
from concurrent.futures import Future
from dataclasses import dataclass, field, replace
from typing import Literal

from fedtune.errors import MalformedMessage
from fedtune.split.activations import Shape
from fedtune.split.asks import (
    Answer,
    Ask,
    BackwardAsk,
    ForwardAsk,
    Packed,
    StepAsk,
    Stepped,
    Way,
    gradient_shape,
    output_shape,
)

_REMEMBERED = 1024
"""So many finished micro-batches are remembered, to know answers that come again."""


@dataclass(slots=True)
class Slot:
    """One micro-batch that is not finished."""

    ask: ForwardAsk
    back: BackwardAsk | None = None
    output: "Future[Packed]" = field(default_factory=Future)
    gradient: "Future[Packed]" = field(default_factory=Future)


class Numbers:
    """Guarded by whoever calls.

    Guarantees: an ask goes out once a connection at most, and over later ones until it is answered: nothing is lost. An
    answer is handed on once, however often it comes: nothing is doubled. No more micro-batches are out than `window`.
    A step goes out behind all gradients before it and in front of all micro-batches after it.
    """

    def __init__(self) -> None:
        self.window = 0
        self._slots: dict[int, Slot] = {}
        self._outside: set[int] = set()
        """Which of them the coordinator was sent."""
        self._steps: dict[int, tuple[StepAsk, Future[None]]] = {}
        """Steps that the coordinator has not confirmed."""
        self._said = 0
        """Steps so far."""
        self.begun = False
        """Was anything asked?"""
        self._ready: deque[tuple[int, Way | Literal["step"]]] = deque()
        """What to send, in this order."""
        self._taken: deque[tuple[int, Way]] = deque()
        self._finished: OrderedDict[int, tuple[Shape, ...]] = OrderedDict()
        """The shapes of answers that may come again, where a connection broke before they were acknowledged."""
        self._open = False

    # -- the caller's side

    def forward(self, ask: ForwardAsk) -> "Future[Packed]":
        """Ask for a micro-batch's output; raises ValueError where its number was used."""
        if ask.number in self._slots:
            raise ValueError(f"micro-batch {ask.number} was sent already")
        self.begun = True
        slot = self._slots[ask.number] = Slot(ask)
        self._ready.append((ask.number, "forward"))
        return slot.output

    def backward(self, ask: BackwardAsk) -> "Future[Packed]":
        """Ask for a micro-batch's gradient, once; raises ValueError where it cannot be had."""
        slot = self._slots.get(ask.number)
        if slot is None or slot.back is not None or slot.ask.gradient is None or not slot.output.done():
            raise ValueError(f"a gradient of micro-batch {ask.number} follows its output, once, where one was wanted")
        if ask.gradient.shape != output_shape(slot.ask):
            raise ValueError(f"a gradient of shape {ask.gradient.shape} for an output of {output_shape(slot.ask)}")
        slot.back = ask
        self._ready.append((ask.number, "backward"))
        return slot.gradient

    def step(self, factor: float, *, last: bool) -> "Future[None]":
        """Say that an optimiser step is over; raises ValueError where gradients of it are still to come."""
        if any(slot.ask.gradient is not None for slot in self._slots.values()):
            raise ValueError("a step follows the answers to all gradients before it")
        ask, future = StepAsk(self._said, factor, last), Future[None]()
        self._steps[ask.number] = ask, future
        self._ready.append((ask.number, "step"))
        self._said, self.begun = self._said + 1, True
        return future

    @property
    def unfinished(self) -> int:
        """Micro-batches and steps that are not finished."""
        return len(self._slots) + len(self._steps)

    @property
    def outside(self) -> int:
        """Micro-batches that the coordinator has and that are not finished."""
        return len(self._outside)

    @property
    def kept_bytes(self) -> int:
        """What is kept to be sent again."""
        slots = self._slots.values()
        return sum(len(s.ask.hidden.data) + (len(s.back.gradient.data) if s.back else 0) for s in slots)

    def fail(self, error: Exception) -> None:
        """Nothing more will be answered."""
        for slot in self._slots.values():
            for future in (slot.output, slot.gradient):
                if not future.done():
                    future.set_exception(error)
        for _, stepped in self._steps.values():
            stepped.set_exception(error)
        self._slots.clear()
        self._steps.clear()
        self.lost()

    # -- the connection's side

    def opened(self, window: int, *, resumed: bool, held: Collection[int], held_back: Collection[int]) -> None:
        """A connection stands: whatever the coordinator does not have is to be sent."""
        self.window, self._open = window, True
        there, there_back = (set(held), set(held_back)) if resumed else (set(), set())
        self._outside = self._slots.keys() & there
        self._ready.clear()
        self._taken.clear()
        # What is not finished was begun after every step: a step follows the answers to all before it.
        self._ready.extend((number, "step") for number in sorted(self._steps))
        for number, slot in sorted(self._slots.items()):
            if number not in there:
                # What has gone back already, or can, needs no second output.
                slot.ask = replace(slot.ask, silent=slot.output.done())
                self._ready.append((number, "forward"))
            if slot.back is not None and number not in there_back:
                self._ready.append((number, "backward"))

    def lost(self) -> None:
        """The connection is gone."""
        self._open = False

    def next_taken(self) -> tuple[int, Way] | None:
        """An answer to acknowledge."""
        return self._taken.popleft() if self._open and self._taken else None

    def next_ask(self) -> Ask | None:
        """The next ask to send, or None where there is none or the window is full."""
        if not self._open:
            return None
        for position, (number, way) in enumerate(self._ready):
            if way == "step":
                del self._ready[position]
                if number in self._steps:
                    return self._steps[number][0]
                return self.next_ask()
            slot = self._slots[number]
            if way == "backward" and number in self._outside and slot.back is not None:
                del self._ready[position]
                return slot.back
            if way == "forward" and len(self._outside) < self.window:
                del self._ready[position]
                self._outside.add(number)
                return slot.ask
        return None

    def check(self, answer: Answer) -> None:
        """Was an answer of this shape asked for? `data` is not looked at; raises MalformedMessage where it was not."""
        slot = self._slots.get(answer.number)
        wanted = self._finished.get(answer.number, ()) if slot is None else _shapes(slot.ask)
        if answer.tensor.shape not in wanted:
            raise MalformedMessage(
                f"an answer of shape {answer.tensor.shape} to micro-batch {answer.number}, which nobody asked for"
            )

    def take(self, answer: Answer | Stepped) -> None:
        """An answer has come; one that came before is acknowledged again."""
        if isinstance(answer, Stepped):
            self._confirm(answer.count)
            return
        slot = self._slots.get(answer.number)
        if slot is None:
            self._taken.append((answer.number, answer.way))
            return
        if answer.way == "forward":
            wanted, future = output_shape(slot.ask), slot.output
        elif slot.back is not None:
            wanted, future = gradient_shape(slot.ask), slot.gradient
        else:
            raise MalformedMessage(f"the coordinator answers a gradient of micro-batch {answer.number}, sent none")
        if answer.tensor.shape != wanted:
            raise MalformedMessage(f"an answer of shape {answer.tensor.shape} where {wanted} was asked for")
        if answer.way == "backward" or slot.ask.gradient is None:
            self._taken.append((answer.number, answer.way))
            self._finish(slot)
        if not future.done():
            future.set_result(answer.tensor)

    def _confirm(self, count: int) -> None:
        if count > self._said:
            raise MalformedMessage(f"the coordinator has taken {count} steps, and was told of {self._said}")
        for number in [number for number in self._steps if number < count]:
            self._steps.pop(number)[1].set_result(None)

    def _finish(self, slot: Slot) -> None:
        number = slot.ask.number
        del self._slots[number]
        self._outside.discard(number)
        self._finished[number] = _shapes(slot.ask)
        if len(self._finished) > _REMEMBERED:
            self._finished.popitem(last=False)


def _shapes(ask: ForwardAsk) -> tuple[Shape, ...]:
    return (output_shape(ask),) if ask.gradient is None else (output_shape(ask), gradient_shape(ask))
