"""A served body that is trained: a copy a client, freed with it, and nobody's steps in another's."""

import gc
import weakref

import pytest
import torch

from fedtune.errors import MalformedMessage, MissingBody, TransportError
from fedtune.recipe import TrainingSection
from fedtune.split.asks import StepAsk, Stepped
from fedtune.split.copies import BodyCopies
from fedtune.split.limits import SplitLimits
from fedtune.split.serve import BodyServer
from fedtune.split.session import Session
from tests.split.bodies import WIDTH, TrainedMixer, answers, backward_ask, copies_of, forward_ask, nobody, tensor

TRAINING = TrainingSection(optimizer="sgd", lr=0.5, device="cpu")


def serving() -> tuple[BodyServer, BodyCopies]:
    body = TrainedMixer()
    copies = copies_of(body, TRAINING, "run", 1)
    return BodyServer(body, WIDTH, limits=SplitLimits(away_s=0.0), copies=copies), copies


def opened(server: BodyServer, name: str) -> Session:
    return server.open(name, "s", nobody, run="run", round_=1)[0]


def train(server: BodyServer, session: Session, seed: int, number: int = 0) -> None:
    """One step of one micro-batch, the last."""
    there_and_back(server, session, seed, number)
    server.ask(session, StepAsk(number, 1.0, last=True))
    assert server.next_answer(session) == Stepped(number + 1)


def there_and_back(server: BodyServer, session: Session, seed: int, number: int = 0) -> None:
    server.ask(session, forward_ask(number, tensor(seed, 1, 3, WIDTH), gradient=(0, 0)))
    server.work()
    answers(server, session)
    server.ask(session, backward_ask(number, tensor(seed + 50, 1, 3, WIDTH)))
    server.work()
    assert answers(server, session)[number, "backward"].shape == (1, 0, WIDTH)


def test_a_clients_copy_is_what_it_would_be_alone() -> None:
    server, copies = serving()
    one, other = opened(server, "a"), opened(server, "b")
    there_and_back(server, one, 1)
    train(server, other, 2)
    server.ask(one, StepAsk(0, 1.0, last=True))
    found = [copies.take("run", 1, name) for name in "ab"]
    for seed, change in zip((1, 2), found, strict=True):
        alone, own = serving()
        train(alone, opened(alone, "a"), seed)
        expected = own.take("run", 1, "a")
        assert all(torch.equal(change[name], expected[name]) for name in expected)
    assert not torch.equal(found[0]["body.own.weight"], found[1]["body.own.weight"])


@pytest.mark.parametrize("end", ["close", "sweep", "replace"])
def test_a_client_that_is_gone_frees_its_copy_and_the_others_count(end: str) -> None:
    server, copies = serving()
    gone, stays = opened(server, "a"), opened(server, "b")
    there_and_back(server, gone, 1)
    copy = weakref.ref(gone.copy)
    train(server, stays, 2)
    if end == "close":
        server.close(gone)
    elif end == "sweep":
        server.detach(gone, nobody)
        assert gone.copy is not None  # it may come back
        server.sweep()
    else:
        server.open("a", "another", nobody, run="run", round_=1)
    gc.collect()
    assert copy() is None
    with pytest.raises(MissingBody):
        copies.take("run", 1, "a")
    assert copies.take("run", 1, "b")
    assert copies.held == 0


def test_steps_are_taken_once_and_in_order() -> None:
    server, copies = serving()
    session = opened(server, "a")
    server.ask(session, forward_ask(0, tensor(1, 1, 3, WIDTH), gradient=(0, 0)))
    server.work()
    with pytest.raises(MalformedMessage, match="before what it follows"):
        server.ask(session, StepAsk(0, 1.0, last=False))
    server.ask(session, backward_ask(0, tensor(51, 1, 3, WIDTH)))
    server.work()
    answers(server, session)
    with pytest.raises(MalformedMessage, match="before what it follows"):
        server.ask(session, StepAsk(1, 1.0, last=False))
    with pytest.raises(MalformedMessage, match="times the peak"):
        server.ask(session, StepAsk(0, 7.0, last=False))
    for _ in range(2):
        server.ask(session, StepAsk(0, 1.0, last=True))
        assert server.next_answer(session) == Stepped(1)
    once = copies.take("run", 1, "a")
    again, own = serving()
    there_and_back(again, (alone := opened(again, "a")), 1)
    again.ask(alone, StepAsk(0, 1.0, last=True))
    assert all(torch.equal(change, once[name]) for name, change in own.take("run", 1, "a").items())


def test_a_body_that_is_frozen_takes_no_step_and_a_round_that_is_over_opens_none() -> None:
    frozen = BodyServer(TrainedMixer(), WIDTH)
    with pytest.raises(MalformedMessage, match="where no body is trained"):
        frozen.ask(frozen.open("a", "s", nobody)[0], StepAsk(0, 1.0, last=True))
    with pytest.raises(MalformedMessage, match="tokens"):
        frozen.ask(frozen.open("a", "s", nobody)[0], forward_ask(0, tensor(1, 1, 3, WIDTH), gradient=(0, 0)))
    server, copies = serving()
    copies.end()
    with pytest.raises(TransportError, match="may be over"):
        opened(server, "a")
