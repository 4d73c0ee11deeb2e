"""Who shares a pass, who waits for others, and who does not."""

import math

import pytest
import torch

from fedtune.split.asks import Coding
from fedtune.split.batching import Batching, Job
from fedtune.split.entry import Entry
from fedtune.split.limits import SplitLimits
from fedtune.split.session import Session
from tests.split.bodies import WIDTH, forward_ask, tensor

POLICY = Batching(max_tokens=32, linger_s=1.0, max_waste=0.25)


def client(name: str, served: int = 0) -> Session:
    session = Session(name, "s", Coding(), WIDTH, SplitLimits())
    session.served = served
    return session


def job(session: Session, tokens: int = 4, *, rows: int = 1, since: float = 0.0, gradient: bool = True) -> Job:
    ask = forward_ask(len(session.entries), tensor(1, rows, tokens, WIDTH), gradient=gradient)
    entry = session.forward(ask)
    assert isinstance(entry, Entry)
    return Job(entry, "forward", since)


def test_micro_batches_of_all_clients_share_a_pass_at_once() -> None:
    jobs = [job(client(name)) for name in "abc"]
    assert POLICY.choose(jobs, 3, now=0.0) == (jobs, 0.0)


def test_who_could_share_a_pass_waits_a_little_for_the_others() -> None:
    jobs = [job(client(name), since=2.0) for name in "ab"]
    assert POLICY.choose(jobs, 3, now=2.25) == ([], 0.75)
    assert POLICY.choose(jobs, 3, now=3.0) == (jobs, 0.0)
    assert POLICY.choose([], 3, now=0.0) == ([], math.inf)


def test_who_fills_a_pass_alone_does_not_wait() -> None:
    large, small = job(client("a"), 17), job(client("b"), 4)
    assert POLICY.choose([large, small], 9, now=0.0) == ([large], 0.0)
    assert Batching(0).choose([small], 9, now=0.0) == ([small], 0.0)


def test_a_pass_that_is_full_does_not_wait() -> None:
    jobs = [job(client(name), 16) for name in "abc"]
    assert POLICY.choose(jobs, 9, now=0.0) == (jobs[:2], 0.0)


def test_two_of_one_client_are_never_in_one_pass() -> None:
    one = client("a")
    jobs = [job(one), job(one), job(client("b"))]
    assert POLICY.choose(jobs, 2, now=0.0) == ([jobs[0], jobs[2]], 0.0)


@pytest.mark.parametrize("other", [{"tokens": 12}, {"gradient": False}])
def test_those_that_would_waste_a_pass_or_need_another_one_stay_out(other: dict[str, int]) -> None:
    jobs = [job(client("a"), 4), job(client("b"), **other)]  # type: ignore[arg-type]
    assert POLICY.choose(jobs, 2, now=5.0) == ([jobs[0]], 0.0)


def test_who_was_served_longest_ago_comes_first() -> None:
    jobs = [job(client("a", served=3)), job(client("b", served=1), since=0.5)]
    assert Batching(0).choose(jobs, 2, now=1.0) == ([jobs[1]], 0.0)


def test_a_gpu_puts_more_together_than_a_cpu() -> None:
    assert Batching.on(torch.device("cpu")).max_tokens == 0
    assert Batching.on(torch.device("cuda")).max_tokens > 1000
