"""The adaptive clip: what its count reveals, how it moves, where it settles, and that the plan pays for it."""

import math
import random

import dp_accounting
import pytest
import torch
from dp_accounting.pld import PLDAccountant
from dp_accounting.rdp import RdpAccountant
from hypothesis import given
from hypothesis import strategies as st

from fedtune.privacy.adaptive import QuantileClip, UnclippedCount
from fedtune.privacy.plan import plan_of
from fedtune.recipe import Recipe


class Fixed:
    """A source that gives one number over and over."""

    def __init__(self, value=0.0):
        self.value = value

    def normal(self, shape):
        return torch.full(shape, self.value, dtype=torch.float64)


def count_of(bits):
    count = UnclippedCount()
    for bit in bits:
        count.add(bit)
    return count


@given(st.lists(st.booleans()), st.booleans())
def test_one_update_moves_the_count_by_exactly_its_sensitivity(bits, one):
    assert abs(count_of([*bits, one]).value() - count_of(bits).value()) == UnclippedCount.sensitivity


@given(st.lists(st.booleans(), max_size=40), st.floats(0.01, 10), st.floats(-3, 3))
def test_the_clip_moves_as_the_algorithm_says(bits, clip, noise):
    """C · exp(−η (b̃ − γ)) with b̃ of the fixed denominator, written out."""
    rule = QuantileClip(quantile=0.7, rate=0.3, count_noise=4.0, divisor=20.0)
    share = (sum(1 for bit in bits if bit) - 0.5 * len(bits) + 4.0 * noise) / 20.0 + 0.5
    expected = clip * math.exp(-0.3 * (share - 0.7))
    assert rule.after(clip, count_of(bits), Fixed(noise)) == pytest.approx(expected, rel=1e-9)


def test_the_clip_settles_at_the_quantile_of_the_norms():
    draw = random.Random(0)
    norms = [draw.lognormvariate(1.0, 0.5) for _ in range(200)]
    rule, clip = QuantileClip(quantile=0.5, rate=0.2, count_noise=0.0, divisor=200.0), 0.01
    for _ in range(200):
        clip = rule.after(clip, count_of([norm <= clip for norm in norms]), Fixed())
    assert clip == pytest.approx(sorted(norms)[100], rel=0.1)


def test_no_noise_drives_the_clip_out_of_the_numbers():
    rule = QuantileClip(quantile=0.5, rate=10.0, count_noise=1e6, divisor=1.0)
    assert 0 < rule.after(1.0, UnclippedCount(), Fixed(1.0)) < rule.after(1.0, UnclippedCount(), Fixed(-1.0)) < math.inf


def recipe(**privacy):
    section = {"unit": "client", "delta": 1e-5, "noise_multiplier": 1.1, "population": 100, "sampling_rate": 0.2}
    return Recipe.model_validate({"model": {"name": "m"}, "privacy": {**section, **privacy}})


def joint(noise, count_noise):
    rule = QuantileClip(quantile=0.5, rate=0.2, count_noise=count_noise, divisor=20.0)
    both = [dp_accounting.GaussianDpEvent(noise), dp_accounting.GaussianDpEvent(rule.noise_multiplier)]
    return dp_accounting.ComposedDpEvent(both)


@pytest.mark.parametrize("count_noise", [0.6, 2.0, 10.0])
def test_the_plans_event_is_the_sum_and_the_count_released_together(count_noise):
    """dp-accounting composes the two mechanisms of one sample by itself; the plan has one event for both."""
    plan = plan_of(recipe(clip_quantile=0.5, count_noise=count_noise))
    (event,) = plan.round_events
    single = dp_accounting.GaussianDpEvent(event.noise_multiplier)
    for rounds, rate, accountant in ((5, 1.0, PLDAccountant), (30, 0.2, RdpAccountant)):
        spent = []
        for inner in (joint(plan.noise_multiplier, count_noise), single):
            sampled = inner if rate == 1.0 else dp_accounting.PoissonSampledDpEvent(rate, inner)
            spent.append(accountant().compose(sampled, rounds).get_epsilon(plan.delta))
        assert spent[0] == pytest.approx(spent[1], rel=1e-3)
    assert event.sampling_rate == plan.sampling_rate == 0.2


def test_the_count_costs_what_the_plan_of_a_fixed_clip_does_not_spend():
    adaptive, fixed = plan_of(recipe(clip_quantile=0.5, count_noise=1.0)), plan_of(recipe())
    assert adaptive.round_events[0].noise_multiplier < fixed.round_events[0].noise_multiplier == 1.1
