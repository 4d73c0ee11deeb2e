"""Optimiser steps of a trained body over a stream that breaks anywhere: each is taken once, and in its place."""

from collections.abc import Iterator

import pytest
import torch

from client.split.numbers import Numbers
from fedtune.errors import MalformedMessage
from fedtune.recipe import TrainingSection
from fedtune.split.asks import BackwardAsk, Coding, Stepped
from fedtune.split.base import Share
from fedtune.split.copies import BodyCopies
from fedtune.state import State
from tests.client.split.test_resume import Counting, Wire
from tests.split.bodies import WIDTH, TrainedMixer, copies_of, forward_ask, tensor

TRAINING = TrainingSection(optimizer="sgd", momentum=0.9, lr=0.5, device="cpu", max_grad_norm=None)
FACTORS = (1.0, 0.5, 0.25)
EACH = 2
"""Micro-batches of a step."""


def offered() -> tuple[TrainedMixer, BodyCopies]:
    body = TrainedMixer()
    return body, copies_of(body, TRAINING, "", 0)


class Client:
    """Three steps of two micro-batches, the second of which needs no gradient of its own."""

    def __init__(self, numbers: Numbers) -> None:
        self.numbers = numbers
        self.done = False
        self._waits_for = self._work()

    def go_on(self) -> None:
        """As far as the answers so far allow."""
        while not self.done and next(self._waits_for, True):
            pass

    def _work(self) -> Iterator[bool]:
        for position, factor in enumerate(FACTORS):
            mine = range(position * EACH, (position + 1) * EACH)
            outputs = {n: self.numbers.forward(forward_ask(n, _input(n), gradient=(0, n % 2 * 2))) for n in mine}
            gradients = []
            for number, output in outputs.items():
                while not output.done():
                    yield False
                given = BackwardAsk(number, Coding().pack(_given(number)))
                gradients.append(self.numbers.backward(given))
            while not all(gradient.done() for gradient in gradients):
                yield False
            said = self.numbers.step(factor, last=factor == FACTORS[-1])
        while not said.done():
            yield False
        self.done = True


def _input(number: int) -> torch.Tensor:
    return tensor(number, 1, 3, WIDTH)


def _given(number: int) -> torch.Tensor:
    return tensor(100 + number, 1, 3, WIDTH)


def by_hand() -> State:
    """The same steps in this process, by torch alone."""
    body = TrainedMixer()
    start = {name: parameter.detach().clone() for name, parameter in body.named_parameters()}
    body.requires_grad_(True)
    optimizer = torch.optim.SGD(body.parameters(), lr=TRAINING.lr, momentum=TRAINING.momentum)
    for position, factor in enumerate(FACTORS):
        optimizer.zero_grad()
        for number in range(position * EACH, (position + 1) * EACH):
            (body(_input(number)) * _given(number)).sum().backward()
        optimizer.param_groups[0]["lr"] = factor * TRAINING.lr
        optimizer.step()
    return {f"body.{name}": parameter.detach() - start[name] for name, parameter in body.named_parameters()}


def script(cut_at: int) -> tuple[int, State]:
    """The whole share with a cut after so many single deeds; returns their number and what was trained."""
    body, copies = offered()
    wire = Wire(Counting(body, copies))
    wire.connect()
    client, deeds = Client(wire.numbers), 0
    for _ in range(300):
        client.go_on()
        for deed in (wire.client_speaks, wire.server_hears, wire.server_works, wire.server_speaks, wire.client_hears):
            deed()
            deeds += 1
            if deeds == cut_at:
                wire.cut()
                wire.connect()
        if client.done and not any(wire.steps()):
            break
    assert client.done
    assert sorted(wire.server.backwards) == list(range(len(FACTORS) * EACH))
    assert wire.numbers.unfinished == wire.session.held_bytes == 0
    return deeds, copies.take("", 0, "a")


def test_wherever_the_stream_is_cut_each_step_is_taken_once() -> None:
    deeds, whole = script(-1)
    for name, tensor_ in by_hand().items():
        torch.testing.assert_close(whole[name], tensor_, atol=1e-6, rtol=0)
    for cut_at in range(1, deeds):
        _, found = script(cut_at)
        assert all(torch.equal(found[name], whole[name]) for name in whole), cut_at


def test_a_step_follows_its_gradients_and_is_confirmed_as_often_as_it_was_said() -> None:
    numbers = Numbers()
    numbers.forward(forward_ask(0, _input(0), gradient=(0, 0)))
    with pytest.raises(ValueError, match="follows the answers"):
        numbers.step(1.0, last=False)
    numbers = Numbers()
    numbers.step(1.0, last=False)
    with pytest.raises(MalformedMessage, match="taken 2 steps"):
        numbers.take(Stepped(2))
    lost = numbers.step(1.0, last=True)
    numbers.take(Stepped(1))
    assert numbers.unfinished == 1
    numbers.fail(RuntimeError("gone"))
    with pytest.raises(RuntimeError):
        lost.result(0)


def test_a_copy_that_is_read_in_between_is_what_it_was_trained_to() -> None:
    _, copies = offered()
    copy = copies.open(Share("", 0, "a"))
    output = copy.run(_input(0), None, train=True)
    copy.add(torch.autograd.grad(output.sum(), copy.parameters))
    copy.step(1.0, last=False)
    moved = copy.change()
    assert all(bool(change.any()) for change in moved.values())
    assert all(torch.equal(copy.change()[name], change) for name, change in moved.items())
