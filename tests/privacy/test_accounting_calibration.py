"""Calibrated noise keeps the budget, by little, and says so where none does."""

import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedtune.errors import PrivacyError
from fedtune.privacy.accounting import calibrate, epsilon_of
from tests.privacy.accounting_events import event, gaussian


def test_the_noise_of_a_known_run_is_found():
    start = time.process_time()
    sigma = calibrate(lambda sigma: [event(sigma, 0.05, 200)], epsilon=3, delta=1e-5)
    assert time.process_time() - start < 3
    assert sigma == pytest.approx(1.2868, rel=3e-4)


def test_the_noise_of_a_plain_gaussian_is_that_of_the_analytic_calibration():
    sigma = calibrate(lambda sigma: [event(sigma)], epsilon=0.7, delta=1e-6)
    assert gaussian(1 / sigma, 0.7) <= 1e-6
    assert gaussian(1.0003 / sigma, 0.7) > 1e-6


@settings(max_examples=5)
@given(st.floats(0.05, 20), st.sampled_from([1e-3, 1e-6]), st.sampled_from([1.0, 0.1, 0.003]), st.integers(1, 400))
def test_what_is_found_keeps_the_budget_and_a_little_less_noise_does_not(epsilon, delta, rate, count):
    def spent(sigma):
        return epsilon_of([event(sigma, rate, count), event(200.0)], delta)

    sigma = calibrate(lambda sigma: [event(sigma, rate, count), event(200.0)], epsilon=epsilon, delta=delta)
    assert spent(sigma) <= epsilon
    assert spent(sigma * (1 - 1e-3)) > epsilon or sigma < 0.011


def test_a_start_that_spends_the_budget_alone_is_said_to():
    with pytest.raises(PrivacyError, match=r"ε = 33\.\d is spent however large noise_multiplier is"):
        calibrate(lambda sigma: [event(sigma, 0.1, 10), event(0.2)], epsilon=3, delta=1e-5)


def test_a_run_that_spends_nothing_needs_hardly_any_noise():
    assert 0 < calibrate(lambda _: [], epsilon=1, delta=1e-5) <= 0.01


@pytest.mark.parametrize("epsilon", [0.0, -1.0, float("inf"), float("nan")])
def test_a_budget_that_is_none_is_refused(epsilon):
    with pytest.raises(PrivacyError, match="epsilon must be"):
        calibrate(lambda sigma: [event(sigma)], epsilon=epsilon, delta=1e-5)
