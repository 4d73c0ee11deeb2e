"""Who shares a pass: like trains with like, and passes are filled by tokens whatever the order."""

from dataclasses import replace
from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from fedtune.adapters.shift import Shift
from fedtune.cohort.group import Item, fill, lots
from fedtune.recipe import TrainingSection
from fedtune.training.base import Assignment
from tests.training.parts import text_rows

items = st.lists(st.tuples(st.integers(1, 4), st.integers(1, 30)), max_size=12)


@given(drawn=items, most=st.integers(1, 60))
def test_passes_hold_every_batch_once_and_no_more_than_fits(drawn: list[tuple[int, int]], most: int) -> None:
    rows = text_rows(1)
    given_items = [Item(n, (rows, [0]), count * size, size, 1) for n, (count, size) in enumerate(drawn)]
    passes = list(fill(given_items, most))
    assert sorted(item.client for chosen in passes for item in chosen) == list(range(len(drawn)))
    assert all(len(chosen) == 1 or sum(item.tokens for item in chosen) <= most for chosen in passes)
    order = [item.longest for chosen in passes for item in chosen]
    assert order == (sorted(order) if len(passes) > 1 else [item.longest for item in given_items])
    for one, other in pairwise(passes):
        assert sum(item.tokens for item in one) + other[0].tokens > most


def test_lots_train_the_same_tensors_on_the_same_weights() -> None:
    plain = Assignment("c", 1, {}, text_rows(2), 1)
    cohort = [
        plain,
        replace(plain, trained=("a", "b")),
        replace(plain, trained=("b", "a")),
        replace(plain, trained=()),
        replace(plain, shift=Shift(key="x")),
        replace(plain, rows=text_rows(0)),
        plain,
    ]
    assert lots(cohort, TrainingSection()) == [[0, 6], [1, 2], [4]]
    assert lots(cohort, TrainingSection(steps=0)) == []
