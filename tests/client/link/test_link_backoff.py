"""Waiting between attempts: longer, capped, never in step."""

import random

from hypothesis import given
from hypothesis import strategies as st

from client.link.backoff import Backoff


@given(st.floats(0.01, 1), st.floats(1, 60), st.integers(0, 2**32), st.integers(1, 60))
def test_delays_grow_up_to_the_cap(first_s: float, cap_s: float, seed: int, attempts: int) -> None:
    backoff = Backoff(first_s, cap_s, random.Random(seed))
    for attempt in range(attempts):
        bound = min(cap_s, first_s * 2**attempt)
        assert bound / 2 <= backoff.next_s() <= bound
    backoff.reset()
    assert backoff.next_s() <= first_s


def test_two_clients_do_not_wait_in_step() -> None:
    assert [Backoff().next_s() for _ in range(2)] != [Backoff().next_s() for _ in range(2)]
