"""Replies are given back in the order of the jobs, whoever is quick, and no more groups are out than was said."""

import random
from functools import partial

import pytest
from hypothesis import given
from hypothesis import strategies as st

from simulations.dealt import Deal, Grouped
from simulations.groups import Cut, Jobs, groups, singly
from simulations.workers import Workers


class Asked:
    """Answers with the names of those that it was asked for together."""

    def answer_all(self, jobs):
        together = "+".join(client for client, _ in jobs).encode()
        return (together + b":" + task for _, task in jobs)


@given(count=st.integers(0, 80), lanes=st.integers(1, 9), ahead=st.integers(1, 4), data=st.data())
def test_a_deal_ends_and_keeps_order(count: int, lanes: int, ahead: int, data: st.DataObject) -> None:
    """Hands take groups while they get any and end them in any order."""
    rows = data.draw(st.lists(st.integers(1, 50), min_size=count, max_size=count))
    hands = data.draw(st.integers(1, ahead))
    draw = random.Random(data.draw(st.integers(0, 9)))
    jobs = [(str(number), b"") for number in range(count)]
    cut: Cut = partial(groups, side_by_side=lanes, rows=lambda name: rows[int(name)])
    largest, block = max(map(len, cut(jobs)), default=0), lanes * max(map(len, cut(jobs)), default=0)
    deal = Deal(jobs, cut, ahead)
    out: list = []
    taken: list[bytes] = []
    while not deal.is_done:
        while len(out) < hands and (group := deal.hand_out()) is not None:
            assert group[0] < len(taken) + ahead * largest
            assert max(group) < len(taken) + ahead * largest + block
            out.append(group)
        assert out, "nothing is under way, and replies are missing"
        group = out.pop(draw.randrange(len(out)))
        assert deal.jobs(group) == [jobs[position] for position in group]
        for position in group:
            deal.bring(position, str(position).encode())
        taken += deal.take()
    assert taken == [str(number).encode() for number in range(count)]
    assert deal.hand_out() is None


def uneven(jobs: Jobs) -> list:
    return groups(jobs, side_by_side=4, rows=lambda client: 1 + int(client[1:]) % 7)


@pytest.mark.parametrize("cut", [partial(groups, side_by_side=4), uneven])
def test_one_process_and_several_are_asked_for_the_same_groups(cut: Cut) -> None:
    jobs = [(f"c{i}", b"ab" if i < 20 else b"cd") for i in range(26)]
    expected = list(Grouped(Asked(), cut).answer_all(jobs))
    assert [reply.split(b":")[1] for reply in expected] == [task for _, task in jobs]
    assert all(
        name.encode() in reply.split(b":")[0].split(b"+") for (name, _), reply in zip(jobs, expected, strict=True)
    )
    assert len({reply.split(b":")[0] for reply in expected}) == 4
    for count in (1, 2, 3):
        with Workers(Asked(), count, cut) as workers:
            assert list(workers.answer_all(jobs)) == expected
    with Workers(Asked(), 2, singly) as workers:
        assert list(workers.answer_all(jobs)) == [f"{name}:".encode() + task for name, task in jobs]


def test_a_reply_whose_turn_it_is_does_not_wait_for_its_group() -> None:
    answered: list[str] = []

    class Noting:
        def answer_all(self, jobs):
            for client, _ in jobs:
                answered.append(client)
                yield client.encode()

    replies = Grouped(Noting(), lambda jobs: [range(len(jobs))]).answer_all([("a", b""), ("b", b"")])
    assert next(replies) == b"a"
    assert answered == ["a"]
