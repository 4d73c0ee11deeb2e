"""A client that leaves the body waiting loses its place after a time; one that waits for the body never does."""

import time

import pytest

from fedtune.errors import TransportError
from fedtune.split.batching import Batching
from fedtune.split.limits import SplitLimits
from fedtune.split.serve import BodyServer
from tests.split.bodies import WIDTH, Mixer, answers, backward_ask, forward_ask, nobody, tensor

HIDDEN = tensor(1, 1, 3, WIDTH)
LATER, TOO_LATE = 300.0, 1000.0
"""Seconds from now: within the limit and beyond it, both by minutes."""


def serving() -> BodyServer:
    return BodyServer(Mixer(), WIDTH, limits=SplitLimits(idle_s=600, max_clients=1), batching=Batching())


def swept(server: BodyServer, seconds: float) -> None:
    server.sweep(time.monotonic() + seconds)


def work(server: BodyServer) -> None:
    while server.work():
        pass


def test_who_sends_forward_and_never_back_loses_its_place_and_all_that_is_kept() -> None:
    server, told = serving(), []
    session, _ = server.open("a", "s", lambda: told.append(1))
    for number in range(2):
        server.ask(session, forward_ask(number, HIDDEN))
    work(server)
    answers(server, session)
    server.acknowledge(session, 0, "forward")  # it has the output, and owes the gradient
    swept(server, LATER)
    assert (session.closed, session.graphs) == (False, 2)
    told.clear()
    swept(server, TOO_LATE)
    assert told
    assert (session.closed, session.graphs, session.held_bytes) == (True, 0, 0)
    with pytest.raises(TransportError, match=r"waiting for 600 s.*batch_size"):
        server.next_answer(session)
    server.close(session)  # as its connection does when it has told the client
    server.open("b", "s", nobody)


def test_forwards_that_go_on_do_not_hide_one_that_never_goes_back(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]
    monkeypatch.setattr("fedtune.split.session.time.monotonic", lambda: now[0])
    server = serving()
    session, _ = server.open("a", "s", nobody)
    server.ask(session, forward_ask(0, HIDDEN))
    for number in range(1, 8):
        now[0] += 100
        server.ask(session, forward_ask(number, HIDDEN, gradient=False))
        work(server)
        server.acknowledge(session, number, "forward")
        server.sweep(now[0])
        assert session.closed == (now[0] - 100 >= 600)
    assert session.closed


@pytest.mark.parametrize("way", ["forward", "backward"])
def test_who_waits_for_the_body_keeps_its_place(way: str) -> None:
    server = serving()
    session, _ = server.open("a", "s", nobody)
    server.ask(session, forward_ask(0, HIDDEN))
    if way == "backward":
        work(server)
        server.ask(session, backward_ask(0, HIDDEN))
    swept(server, TOO_LATE)
    assert not session.closed
    work(server)
    assert (0, way) in answers(server, session)
    swept(server, TOO_LATE)  # and does not take the answer
    assert session.closed


def test_who_asks_for_nothing_loses_its_place_too() -> None:
    server = serving()
    session, _ = server.open("a", "s", nobody)
    swept(server, LATER)
    assert not session.closed
    swept(server, TOO_LATE)
    assert session.closed


def test_what_was_finished_counts_as_asking() -> None:
    server = serving()
    session, _ = server.open("a", "s", nobody)
    session._last_done -= 590
    server.ask(session, forward_ask(0, HIDDEN, gradient=False))
    work(server)
    server.acknowledge(session, 0, "forward")
    swept(server, LATER)
    assert not session.closed


def test_a_known_output_whose_gradient_does_not_come_is_owed_too() -> None:
    """After a coordinator's restart the client sends its inputs again, for their gradients alone."""
    server = serving()
    session, _ = server.open("a", "s", nobody)
    server.ask(session, forward_ask(0, HIDDEN, silent=True))
    swept(server, TOO_LATE)
    assert session.closed


def test_a_limit_of_nothing_is_refused() -> None:
    with pytest.raises(TransportError, match="idle_s above 0"):
        SplitLimits(idle_s=0)
