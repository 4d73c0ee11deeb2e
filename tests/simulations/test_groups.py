"""Groups hold every client of a round once, are as large as passes like, and have about as much to do."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from fedtune.recipe import Recipe
from simulations.groups import ENOUGH, LARGEST, cut_of, group_size, groups, in_a_group


def jobs_of(count: int) -> list[tuple[str, bytes]]:
    return [(str(number), b"") for number in range(count)]


@given(count=st.integers(0, 300), lanes=st.integers(1, 70), looked_at=st.booleans(), data=st.data())
def test_every_job_is_in_one_group_of_no_more_than_is_said(
    count: int, lanes: int, looked_at: bool, data: st.DataObject
) -> None:
    rows = data.draw(st.lists(st.integers(1, 5000), min_size=count, max_size=count)) if looked_at else None
    cut = groups(jobs_of(count), side_by_side=lanes, rows=None if rows is None else lambda name: rows[int(name)])
    assert sorted(position for group in cut for position in group) == list(range(count))
    assert all(list(group) == sorted(group) and len(group) for group in cut)
    firsts = [group[0] for group in cut]
    assert firsts == sorted(firsts)
    assert max(map(len, cut), default=0) <= group_size(count, lanes) <= LARGEST
    assert len(cut) >= min(count, lanes) // 2  # eleven clients on ten cores are six groups of two


@pytest.mark.parametrize(
    ("clients", "lanes", "size"),
    [
        *((0, 2, 1), (1, 2, 1), (3, 2, 2), (8, 2, 4), (30, 2, 15)),  # one a core, for two would be small ones
        *((63, 2, 32), (64, 2, ENOUGH), (100, 2, 25)),  # two a core
        *((300, 2, 30), (300, 16, 19), (30, 16, 2), (1000, 16, 32)),  # none above 32
        *((30, 1, 30), (64, 1, 32), (300, 1, 30)),  # a GPU takes as many as there are at a time
    ],
)
def test_how_large_groups_are(clients: int, lanes: int, size: int) -> None:
    assert group_size(clients, lanes) == size


@given(st.lists(st.integers(1, 1000), min_size=2, max_size=64))
def test_groups_side_by_side_have_about_as_much_to_do(rows: list[int]) -> None:
    """No dealing by the numbers alone does better than this by more than one client's rows, where groups have room."""
    cut = groups(jobs_of(len(rows)), side_by_side=2, rows=lambda name: rows[int(name)])
    for first in range(0, len(cut) - 1, 2):
        pair = cut[first : first + 2]
        loads = [sum(rows[position] for position in group) for group in pair]
        largest = max(rows[position] for group in pair for position in group)
        if max(map(len, pair)) < group_size(len(rows), 2):
            assert abs(loads[0] - loads[1]) <= largest


def test_who_holds_most_is_not_beside_who_holds_next_to_most() -> None:
    rows = [100, 90, 1, 1, 1, 1, 1, 9]
    assert groups(jobs_of(8), side_by_side=2, rows=lambda name: rows[int(name)]) == [[0, 3, 5, 6], [1, 2, 4, 7]]
    as_they_come = [[0, 1, 2, 3], [4, 5, 6, 7]]
    assert groups(jobs_of(8), side_by_side=2, rows=lambda _: 9) == as_they_come
    assert [list(group) for group in groups(jobs_of(8), side_by_side=2)] == as_they_come


def recipe(**sections: dict[str, Any]) -> Recipe:
    model = {"name": "minilm", "labels": ("a", "b")}
    return Recipe.model_validate({"model": model, "training": {"device": "cpu"}} | sections)


def never(name: str) -> int:
    raise AssertionError(f"the rows of {name} are looked at")


PRIVATE = {"unit": "example", "delta": 1e-5, "noise_multiplier": 1.0, "sampling_rate": 0.3}


@pytest.mark.parametrize(
    ("sections", "rows"),
    [
        ({}, lambda name: 100 - int(name)),
        ({"privacy": PRIVATE}, never),
        ({"training": {"device": "cpu", "steps": 2}}, never),
        ({"federation": {"buffer": 2}}, never),
    ],
)
def test_rows_have_a_say_where_they_make_work_and_are_no_secret(
    sections: dict[str, Any], rows: Callable[[str], int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("simulations.groups.cores", lambda: 2)
    cut = [list(group) for group in cut_of(recipe(**sections), rows)(jobs_of(4))]
    expected = [[0, 3], [1, 2]] if rows is not never else [[0, 1], [2, 3]]
    assert cut == ([[0], [1], [2], [3]] if "federation" in sections else expected)


@pytest.mark.parametrize(("name", "gpus", "size"), [("cpu", 0, 2), ("auto", 1, 30), ("cuda", 4, 8), ("cuda:1", 4, 30)])
def test_a_gpu_takes_all_clients_that_share_passes_at_a_time(
    name: str, gpus: int, size: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("simulations.groups.cores", lambda: 16)
    monkeypatch.setattr("simulations.groups.choose_device", lambda _: torch.device("cuda" if gpus else "cpu"))
    monkeypatch.setattr("torch.cuda.device_count", lambda: gpus)
    assert in_a_group(recipe(training={"device": name}), 30) == size
