"""The grid and the transform: discrete pairs against closed forms, sums against direct convolution down to 1e-15."""

import warnings

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedtune.privacy.accounting.composition import compose
from fedtune.privacy.accounting.convolve import add_up
from fedtune.privacy.accounting.step import divergence, step
from fedtune.privacy.accounting.window import Part, Window, window_of
from tests.privacy.accounting_events import event, gaussian, sampled

WIDTH = 2.0**-6


def hockey_stick(losses, mass, only, epsilon):
    """δ(ε) of a discrete loss, summed as it is defined."""
    return only + float(np.sum(mass * np.clip(-np.expm1(epsilon - losses), 0, None)))


@settings(max_examples=40)
@given(
    st.floats(0.3, 30),
    st.one_of(st.just(1.0), st.floats(1e-4, 0.999)),
    st.sampled_from([2.0**-4, 2.0**-7, 2.0**-10]),
    st.floats(-3, 6),
)
def test_the_discrete_pair_is_never_easier_to_confuse_than_the_true_one(sigma, rate, width, epsilon):
    one = step(sigma, rate, width)
    assert one.with_unit.sum() + one.only_with == pytest.approx(1, abs=1e-9)
    assert one.without_unit.sum() + one.only_without == pytest.approx(1, abs=1e-9)
    there = hockey_stick(one.losses, one.with_unit, one.only_with, epsilon)
    back = hockey_stick(-one.losses, one.without_unit, one.only_without, epsilon)
    assert there >= float(sampled(sigma, rate, epsilon)) * (1 - 1e-8) - 1e-12
    assert back >= float(sampled(sigma, rate, epsilon, added=True)) * (1 - 1e-8) - 1e-12


@pytest.mark.parametrize(("sigma", "rate"), [(1.0, 0.01), (0.6, 0.5), (4.0, 1.0)])
def test_on_the_grid_the_discrete_pair_is_exact(sigma, rate):
    one = step(sigma, rate, WIDTH)
    for epsilon in WIDTH * np.array([0, 1, 7, 40, 90]):
        exact = float(sampled(sigma, rate, epsilon)) if rate < 1 else gaussian(1 / sigma, epsilon)
        assert hockey_stick(one.losses, one.with_unit, one.only_with, epsilon) == pytest.approx(
            exact, rel=1e-9, abs=1e-16
        )


def directly(parts):
    """The sum of all parts by multiplying out: nothing but sums of positive terms, so each point is precise."""
    first, mass = 0, np.ones(1)
    for part in parts:
        for _ in range(part.count):
            first, mass = first + part.first, np.convolve(mass, part.mass)
            # What is dropped is far below what the tests look at, on both sides.
            kept = np.flatnonzero(mass > 1e-40)
            first, mass = first + kept[0], mass[kept[0] : kept[-1] + 1]
    return first, mass


def parts_of(*groups):
    return [Part.of(one.first, one.with_unit, count) for one, count in ((step(s, q, WIDTH), n) for s, q, n in groups)]


@pytest.mark.parametrize("tilt", [0.0, 0.05])
def test_a_spectrum_with_a_zero_is_summed_exactly_and_without_a_warning(tilt):
    """Two equal masses have nothing at the highest frequency, to the last bit: log 0 times a count."""
    parts = [Part(0, np.array([0.5, 0.5]), 5), Part(-1, np.array([0.25, 0.5, 0.25]), 3)]
    first, mass = directly(parts)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        total = add_up(parts, Window(first, first + 15, tilt, cut=False))
    assert total.first == first
    np.testing.assert_allclose(total.mass, np.pad(mass, (0, 16 - len(mass))), rtol=1e-12, atol=1e-15)


@pytest.mark.parametrize(
    "groups",
    [
        [(1.0, 0.05, 60)],
        [(0.8, 0.01, 30), (3.0, 0.2, 40)],
        [(4.0, 1.0, 50)],
        [(0.5, 0.001, 3)],
        [(0.4, 0.5, 6), (2.0, 1.0, 4)],
    ],
)
def test_upper_tails_are_precise_far_below_the_rounding_of_a_plain_transform(groups):
    parts = parts_of(*groups)
    total = add_up(parts, window_of(parts))
    first, mass = directly(parts)
    for tail in (0.5, 1e-2, 1e-4, 1e-6, 1e-9, 1e-12, 1e-15):
        at = int(np.searchsorted(-np.cumsum(mass[::-1])[::-1], -tail))
        exact = mass[at:].sum()
        found = total.mass[max(0, first + at - total.first) :].sum()
        assert exact * (1 - 1e-7) - total.beyond <= found <= exact * (1 + 1e-7) + total.beyond


def test_what_lies_above_the_window_is_no_more_than_is_said():
    parts = parts_of((0.7, 0.05, 80))
    window = window_of(parts)
    first, mass = directly(parts)
    above = mass[max(0, window.last + 1 - first) :].sum()
    assert above <= add_up(parts, window).beyond


def test_ten_thousand_events_keep_a_tail_of_one_in_a_million_million():
    """Where a plain transform of doubles reports less than is spent: δ off by a fifth at 1e-12."""
    loss = compose([event(100.0, 0.999_999, 10_000)])
    for epsilon, delta in [(3.138670548582932, 1e-3), (5.776098382890272, 1e-8), (7.238494420178851, 1e-12)]:
        assert loss.delta(epsilon) == pytest.approx(delta, rel=2e-3)
    assert loss.delta(7.238494420178851) >= 1e-12 * (1 - 2e-5)


def test_the_mean_loss_is_that_of_the_closed_form():
    assert divergence(2.0, 1.0) == pytest.approx(1 / 8, rel=1e-6)
    one = step(1.3, 0.2, 2.0**-10)
    assert float(one.with_unit @ one.losses) == pytest.approx(divergence(1.3, 0.2), rel=1e-4)
