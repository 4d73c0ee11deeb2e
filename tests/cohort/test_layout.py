"""Whose the tokens of a tensor are: of the whole stream, of a selection, or one of each row."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedtune.cohort.layout import Layout

pairs = st.lists(st.tuples(st.integers(1, 5), st.integers(1, 5)), min_size=1, max_size=4)


@given(clients=st.lists(pairs, min_size=1, max_size=4))
def test_packed_streams_divide_by_their_rows(clients: list[list[tuple[int, int]]]) -> None:
    layout = Layout(
        rows=tuple(len(rows) for rows in clients),
        tokens=tuple(whole + extra for rows in clients for whole, extra in rows),
        selected=tuple(whole for rows in clients for whole, _ in rows),
    )
    assert layout.spans(sum(layout.tokens)) == tuple(sum(whole + extra for whole, extra in rows) for rows in clients)
    assert layout.spans(sum(layout.selected or ())) == tuple(sum(whole for whole, _ in rows) for rows in clients)
    with pytest.raises(ValueError, match="do not divide"):
        layout.spans(sum(layout.tokens) + 1)


def test_one_a_row_and_padded_streams() -> None:
    assert Layout((2, 1), (3, 4, 5)).spans(3) == (2, 1)
    assert Layout((2, 1)).spans(21) == (14, 7)
    assert Layout((2, 1)).spans(3) == (2, 1)
    with pytest.raises(ValueError, match="22 tokens"):
        Layout((2, 1)).spans(22)
