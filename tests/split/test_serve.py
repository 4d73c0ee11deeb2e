"""A body that serves several clients: right numbers, nothing kept too long, and nobody disturbed by another."""

import gc
import weakref
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from fedtune.errors import MalformedMessage, OversizeMessage, TrainingError, TransportError
from fedtune.split.asks import BackwardAsk, Coding, ForwardAsk, Packed
from fedtune.split.batching import Batching
from fedtune.split.limits import SplitLimits
from fedtune.split.serve import BodyServer
from tests.split.bodies import WIDTH, Mixer, answers, backward_ask, by_hand, forward_ask, nobody, tensor

IN_TURN = Batching(max_tokens=0)
TOGETHER = Batching(max_tokens=4096, linger_s=0.0, max_waste=0.5)


def serving(batching: Batching = IN_TURN, body: nn.Module | None = None, **limits: Any) -> BodyServer:
    return BodyServer(body or Mixer(), WIDTH, limits=SplitLimits(**limits), batching=batching)


def work(server: BodyServer) -> None:
    while server.work():
        pass


def test_one_clients_numbers_are_those_of_its_own_process_to_the_last_bit() -> None:
    server, body = serving(TOGETHER), Mixer()
    session, known = server.open("a", "s", nobody)
    assert not known
    hidden, mask, given = tensor(1, 2, 4, WIDTH), torch.tensor([[1, 1, 1, 0], [1, 1, 1, 1]]), tensor(2, 2, 2, WIDTH)
    server.ask(session, forward_ask(0, hidden, mask, output=(0, 2), gradient=(1, 3)))
    server.ask(session, forward_ask(1, hidden, None, gradient=False))
    work(server)
    output, by_input = by_hand(body, hidden, mask, given)
    first = answers(server, session)
    assert torch.equal(first[0, "forward"], output[:, 0:2])
    assert torch.equal(first[1, "forward"], body(hidden))
    server.ask(session, backward_ask(0, given))
    work(server)
    assert torch.equal(answers(server, session)[0, "backward"], by_input[:, 1:3])
    assert server.passes == 2


def test_what_is_kept_goes_with_the_answers_that_are_taken() -> None:
    server = serving()
    session, _ = server.open("a", "s", nobody)
    hidden = tensor(1, 2, 4, WIDTH)
    server.ask(session, forward_ask(0, hidden))
    server.ask(session, forward_ask(1, hidden, gradient=False))
    input_bytes = hidden.numel() * 4
    assert session.held_bytes == 2 * input_bytes
    work(server)
    assert (session.graphs, len(session.entries)) == (1, 2)
    assert session.held_bytes > 3 * input_bytes + input_bytes  # inputs and answers, and a graph
    server.acknowledge(session, 1, "forward")
    assert list(session.entries) == [0]
    server.ask(session, backward_ask(0, hidden))
    work(server)
    assert session.graphs == 0
    assert session.held_bytes == input_bytes  # the answer alone
    server.acknowledge(session, 0, "forward")  # another answer than the one that is kept
    assert session.held_bytes == input_bytes
    server.acknowledge(session, 0, "backward")
    assert session.held_bytes == 0
    assert not session.entries


def test_a_graph_is_freed_without_waiting_for_the_garbage_collector() -> None:
    class Watched(Mixer):
        def forward(self, hidden: torch.Tensor, mask: torch.Tensor | None = None) -> torch.Tensor:
            output = super().forward(hidden, mask).exp()  # autograd keeps its output
            seen.append(weakref.ref(output))
            return output

    seen: list[Any] = []
    gc.disable()
    try:
        for end in ("backward", "detach", "close"):
            server = serving(body=Watched())
            session, _ = server.open("a", "s", nobody)
            server.ask(session, forward_ask(0, tensor(1, 1, 2, WIDTH)))
            work(server)
            assert session.graphs == 1
            assert seen[-1]() is not None
            if end == "backward":
                server.ask(session, backward_ask(0, tensor(2, 1, 2, WIDTH)))
                work(server)
            elif end == "detach":
                server.detach(session, nobody)
            else:
                server.close(session)
            assert session.graphs == 0
            assert seen[-1]() is None, end
    finally:
        gc.enable()


def test_clients_share_a_pass_and_get_what_they_would_alone() -> None:
    server, body = serving(TOGETHER), Mixer()
    names = ["a", "b", "c", "d"]
    sessions = {name: server.open(name, "s", nobody)[0] for name in names}
    inputs = {name: tensor(i, 1 + i % 2, 3 + i % 3, WIDTH) for i, name in enumerate(names)}
    masks = dict.fromkeys(names) | {"b": torch.tensor([[1, 1, 0, 0], [1, 1, 1, 0]])}
    given = {name: tensor(9, *inputs[name].shape) for name in names}
    for name, session in sessions.items():
        server.ask(session, forward_ask(0, inputs[name], masks[name]))
    work(server)
    assert server.passes == 1
    for name, session in sessions.items():
        output, _ = by_hand(body, inputs[name], masks[name], given[name])
        torch.testing.assert_close(answers(server, session)[0, "forward"], output)
        server.ask(session, backward_ask(0, given[name]))
    calls = _count_backwards(server)
    work(server)
    assert calls == [4]
    for name, session in sessions.items():
        _, by_input = by_hand(body, inputs[name], masks[name], given[name])
        torch.testing.assert_close(answers(server, session)[0, "backward"], by_input)


def _count_backwards(server: BodyServer) -> list[int]:
    """How many micro-batches each way back is for."""
    calls: list[int] = []
    backward = server._worker._backward

    def counted(entries: list[Any]) -> None:
        calls.append(len(entries))
        backward(entries)

    server._worker._backward = counted  # type: ignore[method-assign]
    return calls


def test_those_who_shared_a_pass_may_go_back_one_after_another() -> None:
    server, body = serving(TOGETHER), Mixer()
    sessions = [server.open(name, "s", nobody)[0] for name in "ab"]
    inputs, given = [tensor(i, 1, 3, WIDTH) for i in (1, 2)], tensor(3, 1, 3, WIDTH)
    for session, hidden in zip(sessions, inputs, strict=True):
        server.ask(session, forward_ask(0, hidden))
    work(server)
    for session, hidden in zip(sessions, inputs, strict=True):
        assert session.graphs == 1
        server.ask(session, backward_ask(0, given))
        work(server)
        torch.testing.assert_close(answers(server, session)[0, "backward"], by_hand(body, hidden, None, given)[1])
    assert server.passes == 1


@pytest.mark.parametrize("end", ["detach", "close", "replace", "malformed"])
def test_who_goes_frees_the_shared_graph_and_the_others_do_not_notice(end: str) -> None:
    server, body = serving(TOGETHER), Mixer()
    (gone, _), (stays, _) = server.open("a", "s", nobody), server.open("b", "s", nobody)
    hidden, given = tensor(2, 1, 3, WIDTH), tensor(3, 1, 3, WIDTH)
    server.ask(gone, forward_ask(0, tensor(1, 1, 3, WIDTH)))
    server.ask(stays, forward_ask(0, hidden))
    work(server)
    assert (gone.graphs, stays.graphs, server.passes) == (1, 1, 1)
    if end == "detach":
        server.detach(gone, nobody)
    elif end == "close":
        server.close(gone)
    elif end == "replace":
        server.open("a", "another", nobody)
    else:
        bad = Coding().pack(given)
        server.ask(gone, BackwardAsk(0, Packed(bad.shape, b"\xff" * len(bad.data))))
        server.ask(stays, backward_ask(0, given))
        work(server)
        with pytest.raises(MalformedMessage, match="NaN"):
            server.next_answer(gone)
    assert gone.graphs == 0
    assert gone.held_bytes == (0 if end != "detach" else hidden.numel() * 8)
    server.ask(stays, backward_ask(0, given))
    work(server)
    torch.testing.assert_close(answers(server, stays)[0, "backward"], by_hand(body, hidden, None, given)[1])
    assert stays.graphs == 0


def test_after_a_lost_connection_the_graph_is_made_again_from_the_input() -> None:
    server, body = serving(), Mixer()
    hidden, given = tensor(2, 1, 3, WIDTH), tensor(3, 1, 3, WIDTH)
    session, _ = server.open("a", "s", nobody)
    server.ask(session, forward_ask(0, hidden))
    work(server)
    assert answers(server, session)
    server.detach(session, nobody)
    again, known = server.open("a", "s", nobody)
    assert known
    assert again is session
    assert server.held(session) == ([0], [])
    assert (0, "forward") in answers(server, session)  # not acknowledged, so it comes again
    server.ask(session, forward_ask(0, hidden))  # asked again: nothing is computed
    server.ask(session, backward_ask(0, given))
    work(server)
    assert torch.equal(answers(server, session)[0, "backward"], by_hand(body, hidden, None, given)[1])
    server.ask(session, backward_ask(0, given))
    assert not server.work()
    assert server.held(session) == ([0], [0])
    server.acknowledge(session, 0, "backward")
    server.ask(session, backward_ask(0, given))  # done long ago
    assert not server.work()
    assert session.held_bytes == 0


def test_what_the_client_knows_already_is_not_computed_before_its_gradient_comes() -> None:
    server, body = serving(), Mixer()
    hidden, given = tensor(2, 1, 3, WIDTH), tensor(3, 1, 3, WIDTH)
    session, _ = server.open("a", "s", nobody)
    server.ask(session, forward_ask(4, hidden, silent=True))
    assert not server.work()
    server.ask(session, backward_ask(4, given))
    work(server)
    assert torch.equal(answers(server, session)[4, "backward"], by_hand(body, hidden, None, given)[1])


def test_a_graph_beyond_the_limit_is_computed_again() -> None:
    hidden, given = tensor(2, 1, 3, WIDTH), tensor(3, 1, 3, WIDTH)
    room = 2 * hidden.numel() * 4
    server, body = serving(max_bytes=room, max_tensor_bytes=room), Mixer()
    session, _ = server.open("a", "s", nobody)
    server.ask(session, forward_ask(0, hidden))
    work(server)
    assert session.graphs == 0
    assert session.held_bytes <= room
    server.ask(session, backward_ask(0, given))
    work(server)
    assert torch.equal(answers(server, session)[0, "backward"], by_hand(body, hidden, None, given)[1])


def test_a_kept_graph_makes_room_for_what_comes() -> None:
    hidden, given = tensor(2, 1, 3, WIDTH), tensor(3, 1, 3, WIDTH)
    server, body = serving(max_bytes=5 * hidden.numel() * 4, max_tensor_bytes=100), Mixer()
    session, _ = server.open("a", "s", nobody)
    server.ask(session, forward_ask(0, hidden))
    work(server)
    assert session.graphs == 1
    server.ask(session, forward_ask(1, hidden))
    assert session.graphs == 0
    server.ask(session, backward_ask(0, given))
    work(server)
    assert torch.equal(answers(server, session)[0, "backward"], by_hand(body, hidden, None, given)[1])


@settings(max_examples=150, deadline=None)
@given(st.data())
def test_whatever_a_client_sends_the_limits_hold(data: st.DataObject) -> None:
    """Any asks and acknowledgements in any order: refused or served, and never more than the limits in memory."""
    size = 4 * WIDTH
    server = serving(in_flight=3, max_bytes=20 * size, max_tensor_bytes=4 * size)
    session, _ = server.open("a", "s", nobody)
    small, spans = st.integers(1, 3), st.tuples(st.integers(0, 3), st.integers(0, 3))
    for _ in range(data.draw(st.integers(1, 25))):
        number, kind = data.draw(st.integers(0, 6)), data.draw(st.sampled_from("fffbbbwtd"))
        shape = (data.draw(small), data.draw(small), WIDTH)
        packed = Packed(shape, b"\0" * (Coding().size(shape) - 4 * (data.draw(st.integers(0, 9)) == 0)))
        try:
            if kind == "f":
                output, gradient = data.draw(st.just((0, 1)) | spans), data.draw(st.just((0, 1)) | st.none() | spans)
                server.ask(session, ForwardAsk(number, packed, b"", output, gradient, data.draw(st.booleans())))
            elif kind == "b":
                server.ask(session, BackwardAsk(number, packed))
            elif kind == "w":
                work(server)
                answers(server, session)
            elif kind == "t":
                server.acknowledge(session, number, data.draw(st.sampled_from(["forward", "backward"])))
            else:
                server.detach(session, nobody)
                assert server.open("a", "s", nobody)[0] is session
        except (MalformedMessage, OversizeMessage):
            pass
        assert len(session.entries) <= 3
        assert session.held_bytes <= 20 * size
    server.close(session)
    assert session.held_bytes == session.graphs == 0


def test_limits_on_bytes_and_on_micro_batches_in_flight_hold() -> None:
    hidden = tensor(2, 1, 3, WIDTH)
    size = hidden.numel() * 4
    server = serving(in_flight=2, max_bytes=10 * size, max_tensor_bytes=2 * size)
    session, _ = server.open("a", "s", nobody)
    with pytest.raises(OversizeMessage, match=r"over the split's limit.*batch_size"):
        server.ask(session, forward_ask(0, tensor(2, 3, 3, WIDTH)))
    for number in (0, 1):
        server.ask(session, forward_ask(number, hidden))
    with pytest.raises(OversizeMessage, match="2 micro-batches are in flight"):
        server.ask(session, forward_ask(2, hidden))
    narrow = serving(max_bytes=4 * size, max_tensor_bytes=2 * size)  # each takes its input and its output
    session, _ = narrow.open("a", "s", nobody)
    narrow.ask(session, forward_ask(0, hidden))
    narrow.ask(session, forward_ask(1, hidden))
    with pytest.raises(OversizeMessage, match=r"more than .* in flight"):
        narrow.ask(session, forward_ask(2, hidden))


def test_one_session_a_client_and_so_many_clients() -> None:
    server = serving(max_clients=2)
    first, _ = server.open("a", "one", nobody)
    server.open("b", "one", nobody)
    with pytest.raises(TransportError, match="serves its 2 clients"):
        server.open("c", "one", nobody)
    server.open("a", "two", nobody)
    assert first.closed
    assert set(server.sessions()) == {"a", "b"}


def test_a_session_that_stays_away_is_forgotten() -> None:
    server = serving(away_s=0.0)
    session, _ = server.open("a", "s", nobody)
    server.ask(session, forward_ask(0, tensor(2, 1, 3, WIDTH)))
    server.sweep()
    assert not session.closed
    server.detach(session, nobody)
    server.sweep()
    assert session.closed
    assert session.held_bytes == 0
    assert not server.work()
    assert not server.sessions()


def _wrong_asks() -> list[tuple[str, Any]]:
    good = forward_ask(1, tensor(2, 1, 3, WIDTH))
    return [
        ("width", forward_ask(1, tensor(2, 1, 3, WIDTH + 1))),
        ("tokens", forward_ask(1, tensor(2, 1, 3, WIDTH), output=(0, 4))),
        ("tokens", forward_ask(1, tensor(2, 1, 3, WIDTH), output=(2, 2))),
        ("tokens", forward_ask(1, tensor(2, 1, 3, WIDTH), gradient=(0, 9))),
        ("mask", ForwardAsk(1, good.hidden, b"12", good.output, good.gradient)),
        ("cut short", ForwardAsk(1, Packed((1, 3, WIDTH), b"12"), b"", (0, 3), None)),
        ("was not sent", backward_ask(7, tensor(1, 1, 3, WIDTH))),
        ("shape", backward_ask(0, tensor(1, 1, 2, WIDTH))),
    ]


@pytest.mark.parametrize(("what", "ask"), _wrong_asks())
def test_asks_that_cannot_be_are_refused(what: str, ask: Any) -> None:
    server = serving()
    session, _ = server.open("a", "s", nobody)
    server.ask(session, forward_ask(0, tensor(2, 1, 3, WIDTH)))
    work(server)
    with pytest.raises(MalformedMessage, match=what):
        server.ask(session, ask)


def test_a_gradient_that_nobody_waits_for_is_refused() -> None:
    server = serving()
    session, _ = server.open("a", "s", nobody)
    server.ask(session, forward_ask(0, tensor(2, 1, 3, WIDTH), gradient=False))
    server.ask(session, forward_ask(1, tensor(2, 1, 3, WIDTH)))  # not computed yet
    for number in (0, 1):
        with pytest.raises(MalformedMessage, match="waits for none"):
            server.ask(session, backward_ask(number, tensor(2, 1, 3, WIDTH)))


def test_a_body_that_cannot_compute_fails_the_one_who_asked() -> None:
    class Fragile(Mixer):
        def forward(self, hidden: torch.Tensor, mask: torch.Tensor | None = None) -> torch.Tensor:
            if float(hidden.detach().abs().max()) > 100:
                raise RuntimeError("out of memory")
            return super().forward(hidden, mask)

    server, body = serving(TOGETHER, Fragile()), Mixer()
    (bad, _), (good, _) = server.open("a", "s", nobody), server.open("b", "s", nobody)
    hidden = tensor(2, 1, 3, WIDTH)
    server.ask(bad, forward_ask(0, 1000 * hidden))
    server.ask(good, forward_ask(0, hidden))
    work(server)
    with pytest.raises(TrainingError, match=r"could not compute .* 1 rows of 3 tokens .*batch_size"):
        server.next_answer(bad)
    assert bad.closed
    assert torch.equal(answers(server, good)[0, "forward"], body(hidden))


def test_an_output_that_is_not_finite_fails_its_client_alone() -> None:
    server = serving(TOGETHER, _Log())
    (bad, _), (good, _) = server.open("a", "s", nobody), server.open("b", "s", nobody)
    server.ask(bad, forward_ask(0, torch.zeros(1, 1, WIDTH)))
    server.ask(good, forward_ask(0, torch.ones(1, 1, WIDTH)))
    work(server)
    with pytest.raises(TrainingError, match="not finite"):
        server.next_answer(bad)
    assert answers(server, good)[0, "forward"].tolist() == [[[0.0] * WIDTH]]


class _Log(nn.Module):
    def forward(self, hidden: torch.Tensor, mask: torch.Tensor | None = None) -> torch.Tensor:
        return hidden.log()


def test_a_client_with_much_in_flight_does_not_keep_others_waiting() -> None:
    server = serving()
    (many, _), (one, _) = server.open("a", "s", nobody), server.open("b", "s", nobody)
    for number in range(10):
        server.ask(many, forward_ask(number, tensor(1, 1, 3, WIDTH)))
    server.ask(one, forward_ask(0, tensor(1, 1, 3, WIDTH)))
    server.work()
    server.work()
    assert answers(server, one)
    assert len(answers(server, many)) == 1


def test_the_thread_works_and_stops() -> None:
    import threading

    server = serving()
    heard = threading.Event()
    server.start()
    session, _ = server.open("a", "s", heard.set)
    server.ask(session, forward_ask(0, tensor(1, 1, 3, WIDTH)))
    assert heard.wait(10)
    assert (0, "forward") in answers(server, session)
    server.stop()
    assert session.closed
