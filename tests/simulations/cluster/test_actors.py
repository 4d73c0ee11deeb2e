"""Actors answer in order and hold what this machine holds; what is wrong with one is a sentence."""

import json
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from fedtune.errors import RunError
from simulations.cluster.actors import Actors
from simulations.cluster.desk import Setup
from simulations.cluster.packs import join, split_jobs
from simulations.groups import groups
from tests.simulations.cluster.fake_ray import FakeRay, RayError

CUT = partial(groups, side_by_side=4)
JOBS = [(f"c{i}", b"ab" if i < 12 else b"cd") for i in range(26)]


class Echo:
    """A desk that answers with the client's name and the task reversed; it dies of `dies`, and fails with `fails`."""

    print_ = "same"

    def open(self, setup: str) -> str:
        return json.dumps({"host": "ada", "print": self.print_})

    def answer(self, group: bytes) -> bytes:
        jobs = split_jobs(group)
        if "dies" in dict(jobs):
            raise RayError
        if "fails" in dict(jobs):
            raise AttributeError("no such thing\nand more")
        return join(client.encode() + b":" + task[::-1] for client, task in jobs)


def actors(ray: FakeRay, count: int) -> Actors:
    return Actors(ray, Setup("{}", "", "", None, None, count), {"num_cpus": 1}, CUT)


@pytest.mark.parametrize("count", [1, 2, 3])
def test_replies_come_in_the_order_of_the_jobs_and_few_groups_are_open(count: int) -> None:
    ray = FakeRay(changed=lambda *_: Echo())
    with actors(ray, count) as working:
        assert ray.needs == [{"num_cpus": 1}] * count
        for _ in range(2):
            replies = working.answer_all(JOBS)
            assert next(replies) == b"c0:ba"
            assert sum(len(split_jobs(given)) for given in ray.given if isinstance(given, bytes)) <= 14 * count + 7
            ray.given.clear()
            assert list(replies) == [client.encode() + b":" + task[::-1] for client, task in JOBS[1:]]
            ray.given.clear()
        assert list(working.answer_all([])) == []
        unfinished = working.answer_all(JOBS)
        next(unfinished)
        unfinished.close()
        assert list(working.answer_all([("c", b"xy")])) == [b"c:yx"]
        working.check("same")
    assert ray.most_open <= count
    assert ray.alive == 0
    assert all(isinstance(given, str | bytes) for given in ray.given + ray.came)


@pytest.mark.parametrize(
    ("client", "said"),
    [
        ("dies", r"^a Ray actor died: .* go on with --resume and fewer --workers$"),
        ("fails", r"^a Ray actor failed \(no such thing\); .* go on with --resume$"),
    ],
)
def test_an_actor_that_is_gone_is_a_sentence(client: str, said: str) -> None:
    ray = FakeRay(changed=lambda *_: Echo())
    with actors(ray, 2) as working, pytest.raises(RunError, match=said):
        list(working.answer_all([("c", b"a"), (client, b"b"), ("c", b"c")]))
    assert ray.alive == 0


def test_a_machine_with_other_rows_is_named() -> None:
    def other(_: Any, number: int) -> Echo:
        echo = Echo()
        echo.print_ = "other" if number else "same"
        return echo

    with actors(FakeRay(changed=other), 2) as working, pytest.raises(RunError, match="ada has another model"):
        working.check("same")


def test_what_a_machine_lacks_is_its_own_sentence_and_no_actor_is_left(tmp_path: Path) -> None:
    ray = FakeRay()
    broken = Setup('{"model": {"name": "/none", "labels": ["a", "b"]}}', str(tmp_path / "none"), "", None, None, 2)
    with pytest.raises(RunError, match=r"^on .+: a simulation needs data\.source"):
        Actors(ray, broken, {"num_cpus": 1}, CUT)
    assert ray.alive == 0


def test_actors_that_find_no_place_are_a_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    ray = FakeRay(changed=lambda *_: Echo())
    monkeypatch.setattr(ray, "wait", lambda refs, **_: (refs[:1], refs[1:]))
    with pytest.raises(RunError, match=r"^2 of 3 Ray actors are not ready after 600 s; ask for fewer"):
        actors(ray, 3)
    assert ray.alive == 0
