"""Clients at work at their own pace: who replies, is late or is out of reach ends once, and is at work until then."""

import pytest
from flwr.app import Message

from protos.flower import OwnGrid, make_reply
from protos.payload import to_content
from server.exchange import Exchange
from server.flights import Flight, Flights
from server.roster import Roster


class Clock:
    now = 0.0


class Scripted(OwnGrid):
    """Clients 1 to 9, whose replies are here when the test says so; time goes on only where somebody waits."""

    def __init__(self) -> None:
        super().__init__(1)
        self.clock = Clock()
        self.sent: dict[int, Message] = {}
        self.here: list[Message] = []
        self.forgotten: list[str] = []

    def name_of(self, node: int) -> str:
        return f"client-{node}"

    def get_node_ids(self) -> list[int]:
        return list(range(1, 10))

    def push_messages(self, messages):
        taken = list(messages)
        self.sent |= {message.metadata.dst_node_id: message for message in taken}
        return [None if message.metadata.dst_node_id == 9 else message.metadata.message_id for message in taken]

    def reply(self, *nodes: int) -> None:
        self.here += [make_reply(to_content(b"done"), self.sent[node]) for node in nodes]

    def pull_messages(self, message_ids):
        found, self.here = self.here, []
        return found

    def wait(self, timeout_s, message_ids=None) -> bool:
        self.clock.now += timeout_s
        return False

    def send_and_receive(self, messages, *, timeout=None):
        raise NotImplementedError

    def forget(self, message_ids) -> None:
        self.forgotten += list(message_ids)


@pytest.fixture
def grid() -> Scripted:
    return Scripted()


@pytest.fixture
def flights(grid: Scripted) -> Flights:
    roster = Roster(grid)
    roster.refresh()
    return Flights(Exchange(grid, roster, max_bytes=100), deadline_s=10.0)


def payloads(*nodes: int) -> dict[str, bytes]:
    return {f"client-{node}": b"task" for node in nodes}


def names(flights: Flights) -> list[str]:
    return [flight.client for flight in flights.under_way()]


def test_replies_that_come_together_are_given_one_by_one_and_are_under_way_until_then(
    grid: Scripted, flights: Flights
) -> None:
    flights.send(payloads(1, 2, 3), 1)
    grid.reply(3, 1)
    flight, reply = flights.next()
    assert (flight, reply.data, reply.failure) == (Flight("client-3", 1, 0.0, 4), b"done", "")
    assert names(flights) == ["client-1", "client-2"]
    assert len(flights) == 1
    assert flights.next()[0].client == "client-1"


def test_who_does_not_answer_in_its_own_time_is_late_one_at_a_time(grid: Scripted, flights: Flights) -> None:
    flights.send(payloads(1, 2), 1)
    grid.clock.now = 4.0
    flights.send(payloads(3), 2)
    ends = [flights.next() for _ in range(3)]
    assert [(flight.client, reply.failure, reply.seconds) for flight, reply in ends] == [
        ("client-1", "late", 10.0),
        ("client-2", "late", 10.0),
        ("client-3", "late", 10.0),
    ]
    assert grid.clock.now == 14.0
    assert len(grid.forgotten) == 3
    assert flights.next() is None


def test_what_cannot_be_sent_is_unavailable_and_a_second_task_counts_with_the_first(
    grid: Scripted, flights: Flights
) -> None:
    flights.send(payloads(9), 1)
    flight, reply = flights.next()
    assert (flight.client, reply.failure, flight.bytes_down) == ("client-9", "unavailable", 0)
    flights.send(payloads(1), 1, before=Flight("client-1", 1, 0.0, 100, 20))
    assert flights.under_way() == (Flight("client-1", 1, 0.0, 104, 20),)
    flights.drop()
    assert (names(flights), len(grid.forgotten)) == ([], 1)
