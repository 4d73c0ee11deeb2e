"""Replies come as they come: late ones are named, failed clients are named, and what nobody waits for is withdrawn."""

import threading
import time

import pytest
from flwr.app import Message

from client.link import LinkClient
from protos.flower import make_reply
from protos.payload import to_content
from server.exchange import Exchange
from server.link import LinkGrid
from server.roster import Roster


@pytest.fixture
def grid():
    with LinkGrid("127.0.0.1:0", None) as listening:
        yield listening


@pytest.fixture
def connect(grid):
    """Starts real clients on loopback, each with its own handler, and ends them."""
    clients: list[tuple[LinkClient, threading.Thread]] = []

    def start(**handlers):
        for name, handle in handlers.items():
            client = LinkClient(str(grid.address), None, handle, name=name)
            thread = threading.Thread(target=client.run, daemon=True)
            thread.start()
            clients.append((client, thread))
        roster = Roster(grid)
        roster.wait_for(len(handlers), told=lambda _: None, timeout_s=20)
        return Exchange(grid, roster, max_bytes=1000)

    yield start
    for client, _ in clients:
        client.stop()
    for _, thread in clients:
        thread.join(timeout=10)


def answers(data: bytes):
    return lambda message: make_reply(to_content(data), message)


def fails(_: Message) -> Message:
    raise RuntimeError("a secret of this client")


def ask(exchange, *names, deadline_s=20.0):
    return exchange.ask(dict.fromkeys(names, b"task"), message_type="train", round_=1, deadline_s=deadline_s)


def test_replies_failures_and_oversize_replies_are_told_apart(connect):
    exchange = connect(good=answers(b"fine"), broken=fails, large=answers(b"x" * 1001))
    replies = {reply.client: reply for reply in ask(exchange, "good", "broken", "large")}
    assert (replies["good"].data, replies["good"].failure) == (b"fine", "")
    assert replies["broken"].failure == "unavailable"
    assert "secret" not in replies["broken"].detail
    assert replies["large"].failure == "oversize-message"


def test_who_has_not_replied_at_the_deadline_is_late_and_the_round_does_not_wait(connect):
    release = threading.Event()

    def dawdles(message: Message) -> Message:
        release.wait(30)
        return make_reply(to_content(b"at last"), message)

    exchange = connect(quick=answers(b"fine"), slow=dawdles)
    started = time.monotonic()
    replies = {reply.client: reply for reply in ask(exchange, "quick", "slow", deadline_s=1.0)}
    assert replies["quick"].data == b"fine"
    assert (replies["slow"].failure, replies["slow"].data) == ("late", b"")
    assert time.monotonic() - started < 15
    release.set()


def test_closing_early_withdraws_what_is_open(connect, grid):
    release = threading.Event()

    def dawdles(message: Message) -> Message:
        release.wait(30)
        return make_reply(to_content(b"unwanted"), message)

    exchange = connect(quick=answers(b"fine"), slow=dawdles)
    replies = ask(exchange, "quick", "slow")
    assert next(replies).client == "quick"
    replies.close()
    assert all(status.unanswered == 0 for status in grid.statuses())
    release.set()


def test_waiting_for_clients_ends_with_a_sentence(grid):
    from fedtune.errors import RunError

    heard: list[int] = []
    with pytest.raises(RunError, match=r"0 of 2 clients came within 0 s; start more"):
        Roster(grid).wait_for(2, told=heard.append, timeout_s=0.2)
    assert heard == [0]
