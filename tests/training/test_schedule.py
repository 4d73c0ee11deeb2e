"""Learning rates: bounds, shape, and agreement with transformers' own schedules."""

from itertools import pairwise

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from transformers import get_cosine_schedule_with_warmup, get_linear_schedule_with_warmup

from fedtune.training.schedule import rate_factor, warmup_steps

SCHEDULES = st.sampled_from(["constant", "linear", "cosine"])
TOTALS = st.integers(1, 300)
FRACTIONS = st.floats(0, 0.999)


@given(SCHEDULES, TOTALS, FRACTIONS)
def test_every_step_has_a_rate_above_zero_and_at_most_the_peak(schedule: str, total: int, fraction: float) -> None:
    factors = [rate_factor(schedule, step, total, fraction) for step in range(total)]
    assert all(0 < factor <= 1 for factor in factors)


@given(SCHEDULES, TOTALS, FRACTIONS)
def test_the_rate_rises_through_the_warmup_to_the_peak_and_never_rises_again(
    schedule: str, total: int, fraction: float
) -> None:
    factors = [rate_factor(schedule, step, total, fraction) for step in range(total)]
    warmup = warmup_steps(total, fraction)
    assert all(a < b for a, b in pairwise(factors[: warmup + 1]))
    assert factors[warmup] == 1.0
    assert all(a >= b for a, b in pairwise(factors[warmup:]))


@given(TOTALS, FRACTIONS)
def test_constant_stays_at_the_peak_after_the_warmup(total: int, fraction: float) -> None:
    assert rate_factor("constant", total - 1, total, fraction) == 1.0


@pytest.mark.parametrize(
    ("schedule", "make"),
    [("linear", get_linear_schedule_with_warmup), ("cosine", get_cosine_schedule_with_warmup)],
)
def test_without_warmup_the_decay_is_that_of_transformers(schedule: str, make: object) -> None:
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    reference = make(optimizer, 0, 17)
    for step in range(17):
        assert rate_factor(schedule, step, 17) == pytest.approx(optimizer.param_groups[0]["lr"], abs=1e-15)
        optimizer.step()
        reference.step()
