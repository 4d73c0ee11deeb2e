"""The cohort Grid with a virtual clock: replies arrive when the clients' simulated devices would have sent them."""

import heapq
import itertools
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from fedtune.errors import RunError
from fedtune.wire.envelope import MAX_MESSAGE_BYTES
from protos.flower import NODE_UNAVAILABLE, Message, make_error_reply
from protos.payload import from_content
from server.link.limits import CoordinatorLimits
from simulations.cohort import CohortGrid, Handler
from simulations.devices.clock import VirtualClock
from simulations.devices.trip import Devices, Trip
from simulations.groups import at_once

AWAY_S = CoordinatorLimits().away_s
"""So long after a client has gone the link gives its message up, and so does this grid."""


@dataclass(frozen=True, slots=True)
class _Sent:
    """A message that nobody has worked on yet."""

    client: str
    message: Message
    trip: Trip


class TimedGrid(CohortGrid):
    """Virtual clients behind Flower's Grid interface, on a clock of their own.

    `pull_messages` gives what has arrived by now; `wait` moves the clock on to the next arrival, as waiting would.

    Guarantees: replies come in the order of their virtual arrival, ties in the order of sending. A client is not worked
    on where its reply could not arrive before the end of a `wait`, or where it is lost before it would send; which ones
    are depends on virtual time alone. What a client that goes away or dies leaves is what the link would report: an
    error (`NODE_UNAVAILABLE`), `AWAY_S` later.
    """

    def __init__(self, names: Sequence[str], handler: Handler, devices: Devices, *, run_id: int = 1) -> None:
        super().__init__(names, handler, run_id=run_id)
        self.clock = VirtualClock()
        self._devices = devices
        self._ids = np.array(list(self._names), dtype=np.int64)
        self._order = itertools.count()
        self._at_once = at_once(0)
        self._open: list[tuple[float, int, _Sent]] = []
        """A heap by the moment before which nothing can arrive."""
        self._arriving: list[tuple[float, int, Message]] = []
        """A heap by arrival."""

    def get_node_ids(self) -> list[int]:
        """The clients that are online now."""
        ids: list[int] = self._ids[self._devices.availability.online(self.clock.now)].tolist()
        return ids

    def wait_for_clients(self, count: int) -> None:
        """Move the clock on until `count` clients are online; raises RunError where that never comes."""
        availability, start = self._devices.availability, self.clock.now
        most = 0
        for moment in itertools.chain([start], availability.looks(start)):
            online = int(availability.online(moment).sum())
            if online >= count:
                self.clock.advance_to(moment)
                return
            most = max(most, online)
        raise RunError(
            f"from {start:.0f} s of virtual time on, never more than {most} of {len(self._ids)} clients are online at "
            f"once, and {count} are waited for; lower federation.min_clients and min_replies, or change [simulation]"
        )

    def push_messages(self, messages: Iterable[Message]) -> list[str]:
        """Take messages in, which are sent now."""
        ids = list(super().push_messages(messages))
        self._at_once = at_once(len(ids))
        for key in ids:
            message = self._waiting.pop(key)
            sent = self._send(message)
            order = next(self._order)
            if sent.trip.lost <= sent.trip.ready:
                self._arrive(order, sent, None)
            else:
                heapq.heappush(self._open, (sent.trip.ready, order, sent))
        return ids

    def pull_messages(self, message_ids: Iterable[str]) -> list[Message]:
        """The next of the replies asked for that is here by now; nothing where none is."""
        wanted = set(message_ids)
        self._settle(self.clock.now)
        passed_over = []
        found: list[Message] = []
        while not found and self._arriving and self._arriving[0][0] <= self.clock.now:
            entry = heapq.heappop(self._arriving)
            if entry[2].metadata.reply_to_message_id in wanted:
                found.append(entry[2])
            else:
                passed_over.append(entry)
        for entry in passed_over:
            heapq.heappush(self._arriving, entry)
        return found

    def wait(self, timeout_s: float, message_ids: Iterable[str] | None = None) -> bool:
        """Move the clock on to the next arrival, or by `timeout_s`; False where nothing has arrived then."""
        end = self.clock.now + timeout_s
        self._settle(end)
        arrived = bool(self._arriving) and self._arriving[0][0] <= end
        self.clock.advance_to(self._arriving[0][0] if arrived else end)
        return arrived

    def send_and_receive(self, messages: Iterable[Message], *, timeout: float | None = None) -> list[Message]:
        """Push, and wait for all replies; after `timeout` virtual seconds, those that have arrived."""
        ids = self.push_messages(messages)
        end = float("inf") if timeout is None else self.clock.now + timeout
        replies: list[Message] = []
        while len(replies) < len(ids):
            found = self.pull_messages(ids)
            replies += found
            if not found and not self.wait(end - self.clock.now):
                break
        self.forget(ids)
        return replies

    def forget(self, message_ids: Iterable[str]) -> None:
        """Drop messages that nobody will pull; clients that have not begun never work on them."""
        dropped = set(message_ids)
        self._open = [entry for entry in self._open if entry[2].message.metadata.message_id not in dropped]
        self._arriving = [entry for entry in self._arriving if entry[2].metadata.reply_to_message_id not in dropped]
        heapq.heapify(self._open)
        heapq.heapify(self._arriving)

    def _send(self, message: Message) -> _Sent:
        client = self._names[message.metadata.dst_node_id]
        round_ = int(group) if (group := message.metadata.group_id).isdecimal() else 0
        kind = message.metadata.message_type
        # Rounds of training begin with 1; before them, gradients for the adapter's start are asked for.
        kind = "gradient" if kind == "train" and round_ == 0 else kind
        down = len(from_content(message.content, max_bytes=MAX_MESSAGE_BYTES))
        trip = self._devices.trip(client, kind, round_, sent=self.clock.now, down_bytes=down)
        return _Sent(client, message, trip)

    def _settle(self, end: float) -> None:
        """Work until it is certain what arrives next, up to `end`."""
        while self._open and self._open[0][0] <= end and not self._is_next():
            batch = [heapq.heappop(self._open)]
            while self._open and self._open[0][0] <= end and len(batch) < self._at_once:
                batch.append(heapq.heappop(self._open))
            replies = self._handler([(sent.client, sent.message) for _, _, sent in batch])
            for (_, order, sent), reply in zip(batch, replies, strict=True):
                self._arrive(order, sent, reply)

    def _is_next(self) -> bool:
        """Can nothing that is still open arrive before the first of what was worked on?"""
        return bool(self._arriving) and self._arriving[0][:2] < self._open[0][:2]

    def _arrive(self, order: int, sent: _Sent, reply: Message | None) -> None:
        """Note when a reply is whole; a client that goes away before gives none."""
        arrival = sent.trip.ready
        if reply is not None and not reply.has_error():
            arrival = sent.trip.arrival(len(from_content(reply.content, max_bytes=MAX_MESSAGE_BYTES)))
        if reply is None or sent.trip.lost <= arrival:
            arrival = sent.trip.lost + AWAY_S
            reason = f"client {sent.client} has been away for {AWAY_S:g} s"
            reply = make_error_reply(NODE_UNAVAILABLE, reason, to=sent.message)
        heapq.heappush(self._arriving, (arrival, order, reply))
