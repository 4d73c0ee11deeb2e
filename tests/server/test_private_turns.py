"""Turns: nobody is in too often or too soon, and nobody's turn depends on who else is there."""

import itertools

import hypothesis.strategies as st
from hypothesis import given
from scipy import stats

from server.private_turns import Turns

NAMES = tuple(f"client-{k}" for k in range(5))


def turns(taken=(), **changes):
    return Turns(**{"period": 3, "most": 4, "seed": 0, "taken": taken, **changes})


PRESENT = st.lists(st.sets(st.sampled_from(NAMES)), max_size=16)


@given(PRESENT, st.integers(1, 5), st.integers(1, 4))
def test_nobody_is_in_twice_within_a_period_nor_more_often_than_allowed(present, period, most):
    order = turns(period=period, most=most)
    rows = [set(order.take(sorted(names))) for names in present]
    assert all(row <= names for row, names in zip(rows, present, strict=True))
    for name in NAMES:
        own = [index for index, row in enumerate(rows) if name in row]
        assert all(later - earlier >= period for earlier, later in itertools.pairwise(own))
        assert len(own) <= most


@given(PRESENT, st.sampled_from(NAMES), st.integers(1, 4))
def test_one_client_more_displaces_nobody(present, one, period):
    """Add or remove one: everybody else's rows stay as they are."""
    with_one, without = turns(period=period), turns(period=period)
    for names in present:
        assert set(with_one.take(sorted(names | {one}))) - {one} == set(without.take(sorted(names - {one}))) - {one}


@given(PRESENT, PRESENT)
def test_who_goes_on_from_the_books_goes_on_as_who_was_never_away(before, after):
    whole, rows = turns(), []
    for names in before:
        rows.append([name.upper() for name in whole.take(sorted(names))])
    resumed = turns(rows, known_as=str.upper)
    assert resumed.row == whole.row
    for names in after:
        assert resumed.take(sorted(names)) == whole.take(sorted(names))


def test_a_row_that_came_to_nothing_counts_for_those_who_were_asked():
    order = turns(period=1, most=2)
    assert order.take(["a"]) == ("a",)
    assert turns([["a"], ["a"]], period=1, most=2).take(["a"]) == ()


def test_first_turns_are_spread_over_the_period_and_everybody_gets_one():
    names = [f"client-{k}" for k in range(400)]
    order = turns(period=8, most=99)
    rows = [order.take(names) for _ in range(16)]
    assert sorted(name for row in rows[:8] for name in row) == sorted(names)
    assert stats.chisquare([len(row) for row in rows[:8]]).pvalue > 1e-4
    assert rows[8:] == rows[:8]
