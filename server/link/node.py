"""One client as the coordinator knows it, connected or not: what it was asked, and what of that has arrived."""

import time
from dataclasses import dataclass, replace
from typing import Protocol

from protos.endpoint import Arrived, Delivered, Endpoint, Event, Rejected
from protos.fedtune.v1.link_pb2 import ServerFrame, Withdraw
from protos.flower import CLIENT_APP_CRASHED, NODE_UNAVAILABLE, UNKNOWN_ERROR, Message
from protos.transfer import Payload
from server.link.limits import CoordinatorLimits
from server.link.replies import Reply, ReplyBox


@dataclass(frozen=True, slots=True)
class Traffic:
    """Whole messages that went to and came from one client, and what had to be sent again."""

    down_bytes: int = 0
    up_bytes: int = 0
    down_messages: int = 0
    up_messages: int = 0
    resent_bytes: int = 0


@dataclass(frozen=True, slots=True)
class NodeStatus:
    """One client, for people to look at."""

    name: str
    node_id: int
    connected: bool
    silent_s: float
    """Seconds since it was last heard of; infinite where it never was."""
    unanswered: int
    traffic: Traffic


class Connected(Protocol):
    """What a node needs of its connection."""

    last_seen: float

    def wake(self) -> None:
        """There is something to send."""

    def replaced(self) -> None:
        """A newer connection has taken this one's place."""


@dataclass(slots=True)
class Unanswered:
    """A message without a reply so far."""

    head: Message
    payload: Payload
    deaths: int = 0
    """How many client processes have ended after this message was on its way to them."""
    delivered: bool = False
    """Whether the present process has all of it."""


class Node:
    """Lives in the link's thread only.

    Guarantees: every message that was pushed ends in exactly one reply or in `forget`: an error reply where the client
    stays away for `away_s`, says goodbye, refuses the message, or has died of it `max_deliveries` times.
    """

    def __init__(self, node_id: int, limits: CoordinatorLimits, box: ReplyBox) -> None:
        self.node_id = node_id
        self.name = ""
        self.session = ""
        self.connection: Connected | None = None
        self.unanswered: dict[str, Unanswered] = {}
        self.away_since = time.monotonic()
        self.traffic = Traffic()
        self.endpoint = Endpoint(ServerFrame, limits, wanted=self.unanswered.__contains__)
        self._limits = limits
        self._box = box
        self._last_seen = float("-inf")

    def push(self, message_id: str, head: Message, payload: Payload) -> None:
        """Send a message now, or as soon as the client is back."""
        if self.connection is None and not self.unanswered:
            self.away_since = time.monotonic()
        self.unanswered[message_id] = Unanswered(head, payload)
        self.endpoint.send(message_id, payload)
        self._wake()

    def forget(self, message_id: str) -> None:
        """No reply to this message is wanted any more; tells the client."""
        if self.unanswered.pop(message_id, None):
            self.endpoint.forget(message_id)
            if self.connection:
                self.endpoint.say(ServerFrame(withdraw=Withdraw(transfer=message_id)))
                self._wake()

    def attach(self, session: str, connection: Connected) -> None:
        """The client is here; a new session gets everything again that it has not answered."""
        if self.connection:
            self.connection.replaced()
        self.endpoint.lost()
        self.connection = connection
        if self.session not in {"", session}:
            self._deliver_again()
        self.session = session

    def detach(self, connection: Connected) -> None:
        """This connection is gone; nothing happens where a newer one has taken its place."""
        if connection is self.connection:
            self._last_seen = connection.last_seen
            self.connection = None
            self.away_since = time.monotonic()
            self.endpoint.lost()

    def take(self, event: Event) -> None:
        """Something happened to a transfer."""
        match event:
            case Delivered(transfer) if transfer in self.unanswered:
                self._count_delivery(self.unanswered[transfer])
            case Arrived(transfer, raw) if transfer in self.unanswered:
                self._answer(transfer, raw)
            case Rejected(transfer, reason, message):
                self.fail(transfer, UNKNOWN_ERROR, f"{reason}: {message}")

    def fail(self, message_id: str, code: int, reason: str) -> None:
        """Answer a message with an error in the client's place."""
        if unanswered := self.unanswered.pop(message_id, None):
            self.endpoint.forget(message_id)
            self._box.put(message_id, Reply(unanswered.head, code=code, failure=reason))

    def fail_all(self, reason: str) -> None:
        """Answer everything with an error: the client will not."""
        for message_id in list(self.unanswered):
            self.fail(message_id, NODE_UNAVAILABLE, reason)

    def give_up_if_away(self, now: float) -> None:
        """Answer everything with an error where the client has been away for too long."""
        if self.connection is None and now - self.away_since > self._limits.away_s:
            self.fail_all(f"client {self.name or self.node_id} has been away for {self._limits.away_s:g} s")

    @property
    def last_seen(self) -> float:
        """When the client was last heard of, on the monotonic clock."""
        return self.connection.last_seen if self.connection else self._last_seen

    def status(self, now: float) -> NodeStatus:
        """What a person may want to know."""
        traffic = replace(self.traffic, resent_bytes=self.endpoint.resent_bytes)
        connected = self.connection is not None
        return NodeStatus(self.name, self.node_id, connected, now - self.last_seen, len(self.unanswered), traffic)

    def _deliver_again(self) -> None:
        for message_id, unanswered in self.unanswered.items():
            unanswered.deaths += unanswered.delivered or self.endpoint.has_begun(message_id)
        self.endpoint.peer_restarted()
        for message_id, unanswered in list(self.unanswered.items()):
            if unanswered.deaths >= self._limits.max_deliveries:
                reason = f"client {self.name} restarted {unanswered.deaths} times while it had this message"
                self.fail(message_id, CLIENT_APP_CRASHED, reason)
            else:
                unanswered.delivered = False
                self.endpoint.send(message_id, unanswered.payload)

    def _count_delivery(self, unanswered: Unanswered) -> None:
        unanswered.delivered = True
        self.traffic = replace(
            self.traffic,
            down_bytes=self.traffic.down_bytes + unanswered.payload.total_bytes,
            down_messages=self.traffic.down_messages + 1,
        )

    def _answer(self, message_id: str, raw: bytes | bytearray) -> None:
        unanswered = self.unanswered.pop(message_id)
        self.endpoint.forget(message_id)
        self.traffic = replace(
            self.traffic, up_bytes=self.traffic.up_bytes + len(raw), up_messages=self.traffic.up_messages + 1
        )
        self._box.put(message_id, Reply(unanswered.head, raw))

    def _wake(self) -> None:
        if self.connection:
            self.connection.wake()
