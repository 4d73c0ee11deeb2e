"""Clients at work at their own pace: what each was sent, and whose reply, or end of patience, comes next."""

import math
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial

from server.exchange import Exchange, Reply


@dataclass(frozen=True, slots=True)
class Flight:
    """One client's work under way."""

    client: str
    round: int
    """The round whose model it was sent."""
    sent: float
    """When, on the run's clock."""
    bytes_down: int
    bytes_up: int = 0
    """Of an answer before this one that asked for what the task lacked; 0 where there was none."""


class Flights:
    """The messages of a run that are open, whichever round they belong to.

    Guarantees: each flight ends once, with a reply or with what stands for one. On a virtual clock nothing but the open
    flights and the clock says which ends next.
    """

    def __init__(self, exchange: Exchange, *, deadline_s: float) -> None:
        """`deadline_s`: seconds after which a client is given up; none on a grid that knows no time."""
        self._exchange = exchange
        self._deadline_s = math.inf if exchange.clock.endless else deadline_s
        self._open: dict[str, Flight] = {}
        self._ended: deque[tuple[Flight, Callable[[], Reply]]] = deque()

    def __len__(self) -> int:
        """How many clients are at work."""
        return len(self._open)

    def under_way(self) -> tuple[Flight, ...]:
        """All that `next` has not given yet: those whose replies are here, and the open ones as they were sent."""
        return (*(flight for flight, _ in self._ended), *self._open.values())

    def send(self, payloads: Mapping[str, bytes], round_: int, *, before: Flight | None = None) -> None:
        """Have clients begin; `before` is what a client had from us that did not suffice."""
        sent = self._exchange.clock.now()
        down, up = (before.bytes_down, before.bytes_up) if before else (0, 0)
        ids, unsent = self._exchange.send(payloads, "train", round_)
        for key, client in ids.items():
            self._open[key] = Flight(client, round_, sent, down + len(payloads[client]), up)
        for client in unsent:
            lost = partial(self._exchange.failed, client, "unavailable", "the message could not be sent", sent)
            self._ended.append((Flight(client, round_, sent, down, up), lost))

    def next(self) -> tuple[Flight, Reply] | None:
        """Wait for the next flight to end; None where nobody is at work."""
        while self._open and not self._ended:
            if not self._take_in() and not self._give_up():
                first = min(flight.sent for flight in self._open.values())
                self._exchange.wait(first + self._deadline_s - self._exchange.clock.now(), self._open)
        if not self._ended:
            return None
        flight, reply = self._ended.popleft()
        return flight, reply()

    def drop(self) -> None:
        """The run is over: nobody waits for what is open."""
        self._exchange.forget(self._open)
        self._open.clear()

    def _take_in(self) -> bool:
        """Whatever has come; was there anything?"""
        found = self._exchange.pull(self._open)
        for key, message in found:
            flight = self._open.pop(key)
            self._ended.append((flight, partial(self._exchange.read, flight.client, message, flight.sent)))
        return bool(found)

    def _give_up(self) -> bool:
        """The first whose time is over; is there one?"""
        now = self._exchange.clock.now()
        key = next((key for key, flight in self._open.items() if now >= flight.sent + self._deadline_s), None)
        if key is None:
            return False
        self._exchange.forget([key])
        flight = self._open.pop(key)
        self._ended.append((flight, partial(self._exchange.late, flight.client, self._deadline_s, flight.sent)))
        return True
