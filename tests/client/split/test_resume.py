"""A client's micro-batches and a body's sessions over a stream that breaks anywhere: all is answered, once."""

from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future
from functools import cache

import pytest
import torch
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from client.split.numbers import Numbers
from fedtune.errors import MalformedMessage
from fedtune.split.asks import Answer, Ask, BackwardAsk, Coding, Packed
from fedtune.split.batching import Batching
from fedtune.split.copies import BodyCopies
from fedtune.split.entry import Entry
from fedtune.split.limits import SplitLimits
from fedtune.split.serve import BodyServer
from protos.fedtune.v1.split_pb2 import SplitClientFrame, SplitServerFrame, Taken
from protos.split import Gathering, frames_of_answer, frames_of_ask, take_answer, take_ask
from tests.split.bodies import WIDTH, Mixer, by_hand, forward_ask, nobody, tensor

CHUNK = 50
"""Bytes of a frame: a tensor of 2 tokens is on two of them."""
WINDOW = 2
BODY = Mixer()


class Counting(BodyServer):
    """Remembers what the body computed."""

    def __init__(self, body: Mixer = BODY, copies: BodyCopies | None = None) -> None:
        super().__init__(
            body,
            WIDTH,
            limits=SplitLimits(in_flight=WINDOW),
            batching=Batching(max_tokens=0),
            coding=Coding(),
            copies=copies,
        )
        self.backwards: list[int] = []
        backward = self._worker._backward

        def counted(entries: list[Entry]) -> None:
            self.backwards.extend(entry.ask.number for entry in entries)
            backward(entries)

        self._worker._backward = counted  # type: ignore[method-assign]


class Wire:
    """The two ends of a stream, without anything in between but frames as bytes."""

    def __init__(self, server: Counting | None = None) -> None:
        self.server = server or Counting()
        self.backwards: list[int] = []
        """What coordinators that are gone computed."""
        self.restarts = 0
        self.numbers = Numbers()
        self.up: deque[bytes] = deque()
        self.down: deque[bytes] = deque()
        self.open = False

    def connect(self) -> None:
        self.session, resumed = self.server.open("a", "session", nobody)
        held, held_back = self.server.held(self.session)
        self.up.clear()
        self.down.clear()
        self._asking: Iterator[SplitClientFrame] = iter(())
        self._answering: Iterator[SplitServerFrame] = iter(())
        self._at_client: Gathering[Answer] = Gathering(Coding(), self.numbers.check)
        self._at_server: Gathering[Ask] = Gathering(Coding(), lambda ask: self.server.check(self.session, ask))
        self.numbers.opened(WINDOW, resumed=resumed, held=held, held_back=held_back)
        self.open = True

    def cut(self) -> None:
        self.open = False
        self.numbers.lost()
        self.server.detach(self.session, nobody)

    def restart(self) -> None:
        """The coordinator is another process now."""
        self.cut()
        self.backwards += self.server.backwards
        self.restarts += 1
        self.server = Counting()

    # -- one frame at a time

    def client_speaks(self) -> bool:
        frame = next(self._asking, None)
        if frame is None and (taken := self.numbers.next_taken()) is not None:
            frame = SplitClientFrame(taken=Taken(number=taken[0], backward=taken[1] == "backward"))
        if frame is None and (ask := self.numbers.next_ask()) is not None:
            self._asking = frames_of_ask(ask, CHUNK)
            frame = next(self._asking)
        if frame is not None:
            self.up.append(frame.SerializeToString())
        return frame is not None

    def server_hears(self) -> bool:
        if not self.up:
            return False
        frame = SplitClientFrame.FromString(self.up.popleft())
        if frame.HasField("taken"):
            way = "backward" if frame.taken.backward else "forward"
            self.server.acknowledge(self.session, frame.taken.number, way)
        elif (ask := take_ask(self._at_server, frame)) is not None:
            self.server.ask(self.session, ask)
        return True

    def server_works(self) -> bool:
        return self.server.work()

    def server_speaks(self) -> bool:
        frame = next(self._answering, None)
        if frame is None and (answer := self.server.next_answer(self.session)) is not None:
            self._answering = frames_of_answer(answer, CHUNK)
            frame = next(self._answering)
        if frame is not None:
            self.down.append(frame.SerializeToString())
        return frame is not None

    def client_hears(self) -> bool:
        if not self.down:
            return False
        answer = take_answer(self._at_client, SplitServerFrame.FromString(self.down.popleft()))
        if answer is not None:
            self.numbers.take(answer)
        return True

    def steps(self) -> list[bool]:
        """Each side does what it can, once."""
        deeds = (self.client_speaks, self.server_hears, self.server_works, self.server_speaks, self.client_hears)
        return [deed() for deed in deeds]


class Work:
    """A client's local step as the stream sees it: several micro-batches, each there and back or only there."""

    def __init__(self, wire: Wire) -> None:
        self.wire = wire
        self.outputs: dict[int, Future[Packed]] = {}
        self.gradients: dict[int, Future[Packed]] = {}

    def begin(self) -> int:
        number = len(self.outputs)
        self.outputs[number] = self.wire.numbers.forward(
            forward_ask(number, _input(number), output=(0, 2), gradient=(1, 3) if _trains(number) else False)
        )
        return number

    def go_back(self) -> None:
        """The gradient of each output that has come."""
        for number, output in self.outputs.items():
            if _trains(number) and output.done() and number not in self.gradients:
                given = Coding().pack(_given(number))
                self.gradients[number] = self.wire.numbers.backward(BackwardAsk(number, given))

    def check(self) -> None:
        """What is here is right."""
        for number, future in self.outputs.items():
            if future.done():
                output, by_input = _expected(number)
                assert torch.equal(Coding().unpack(future.result()), output[:, 0:2])
                if number in self.gradients and self.gradients[number].done():
                    assert torch.equal(Coding().unpack(self.gradients[number].result()), by_input[:, 1:3])

    @property
    def done(self) -> bool:
        futures = [*self.outputs.values(), *self.gradients.values()]
        return all(f.done() for f in futures) and len(self.gradients) == sum(map(_trains, self.outputs))


def _input(number: int) -> torch.Tensor:
    return tensor(number, 1, 3, WIDTH)


def _given(number: int) -> torch.Tensor:
    return tensor(100 + number, 1, 2, WIDTH)


@cache
def _expected(number: int) -> tuple[torch.Tensor, torch.Tensor]:
    return by_hand(BODY, _input(number), None, _given(number))


def _trains(number: int) -> bool:
    return number % 3 != 2


def _undisturbed() -> int:
    """How many single steps the script takes."""
    return _script(cut_at=-1, restart=False)


def _script(*, cut_at: int, restart: bool) -> int:
    """Four micro-batches with a cut after so many steps; returns the steps taken."""
    wire = Wire()
    wire.connect()
    work = Work(wire)
    for _ in range(4):
        work.begin()
    steps = 0
    for _ in range(1000):
        for deed in (wire.client_speaks, wire.server_hears, wire.server_works, wire.server_speaks, wire.client_hears):
            deed()
            steps += 1
            if steps == cut_at:
                wire.restart() if restart else wire.cut()
                wire.connect()
        work.go_back()
        work.check()
        if work.done and not any(wire.steps()):
            break
    assert work.done
    backwards = sorted(wire.backwards + wire.server.backwards)
    assert set(backwards) == {0, 1, 3}
    assert len(backwards) == 3 or restart
    assert wire.numbers.unfinished == wire.numbers.outside == wire.numbers.kept_bytes == 0
    assert wire.session.held_bytes == 0
    return steps


def test_wherever_the_stream_is_cut_the_result_is_that_of_an_undisturbed_run() -> None:
    for cut_at in range(1, _undisturbed()):
        _script(cut_at=cut_at, restart=False)


def test_wherever_the_coordinator_forgets_the_result_is_that_of_an_undisturbed_run() -> None:
    for cut_at in range(1, _undisturbed()):
        _script(cut_at=cut_at, restart=True)


class Stream(RuleBasedStateMachine):
    """Any order of steps, with cuts and restarts in between."""

    def __init__(self) -> None:
        super().__init__()
        self.wire = Wire()
        self.wire.connect()
        self.work = Work(self.wire)

    @precondition(lambda self: len(self.work.outputs) < 7)
    @rule()
    def begin(self) -> None:
        self.work.begin()

    @rule()
    def go_back(self) -> None:
        self.work.go_back()

    @precondition(lambda self: self.wire.open)
    @rule(deed=st.sampled_from(["client_speaks", "server_hears", "server_works", "server_speaks", "client_hears"]))
    def step(self, deed: str) -> None:
        getattr(self.wire, deed)()

    @precondition(lambda self: self.wire.open)
    @rule(times=st.integers(1, 8))
    def go_on(self, times: int) -> None:
        for _ in range(times):
            self.wire.steps()

    @rule()
    def body_works_alone(self) -> None:
        self.wire.server.work()

    @precondition(lambda self: self.wire.open)
    @rule()
    def cut(self) -> None:
        self.wire.cut()
        assert self.wire.session.graphs == 0

    @precondition(lambda self: self.wire.open)
    @rule()
    def restart(self) -> None:
        self.wire.restart()

    @precondition(lambda self: not self.wire.open)
    @rule()
    def connect(self) -> None:
        self.wire.connect()

    @invariant()
    def window_holds(self) -> None:
        assert self.wire.numbers.outside <= WINDOW
        assert len(self.wire.session.entries) <= WINDOW
        self.work.check()

    def teardown(self) -> None:
        if not self.wire.open:
            self.wire.connect()
        for _ in range(500):
            self.work.go_back()
            if self.work.done and not any(self.wire.steps()):
                break
            self.wire.steps()
        assert self.work.done
        backwards = self.wire.backwards + self.wire.server.backwards
        assert set(backwards) == {n for n in self.work.outputs if _trains(n)}
        assert len(backwards) <= len(set(backwards)) + self.wire.restarts * WINDOW
        assert self.wire.restarts or len(backwards) == len(set(backwards))
        assert self.wire.session.held_bytes == 0
        assert self.wire.numbers.kept_bytes == 0


TestStream = Stream.TestCase
TestStream.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)


def test_answers_that_nobody_asked_for_are_refused_before_their_bytes_are_taken() -> None:
    wire = Wire()
    wire.connect()
    Work(wire).begin()
    for number, way, tokens in ((1, "forward", 2), (0, "forward", 3), (0, "backward", 9)):
        with pytest.raises(MalformedMessage, match="nobody asked for"):
            wire.numbers.check(Answer(number, way, Packed((1, tokens, WIDTH), b"")))
    with pytest.raises(MalformedMessage, match="sent none"):
        wire.numbers.take(Answer(0, "backward", Packed((1, 2, WIDTH), b"")))


def test_a_number_is_used_once_and_a_gradient_follows_its_output() -> None:
    wire = Wire()
    wire.connect()
    work = Work(wire)
    for _ in range(3):
        work.begin()
    with pytest.raises(ValueError, match="sent already"):
        wire.numbers.forward(forward_ask(0, _input(0)))
    back = BackwardAsk(0, Coding().pack(_given(0)))
    with pytest.raises(ValueError, match="follows its output"):
        wire.numbers.backward(back)
    while not all(output.done() for output in work.outputs.values()):
        wire.steps()
        if work.outputs[0].done():
            work.go_back()
    with pytest.raises(ValueError, match="follows its output"):
        wire.numbers.backward(BackwardAsk(2, Coding().pack(_given(2))))
