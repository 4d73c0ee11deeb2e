"""The attack table: closed forms of the Gaussian, quadrature of the best test, and what a covering Gaussian covers."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from scipy.special import ndtr
from scipy.stats import norm

from fedtune.privacy.accounting import compose, covering_mu, risk, trade_off
from fedtune.privacy.accounting.gaussian import gaussian_delta
from tests.privacy.accounting_events import event, events, gaussian

RATES = (0.001, 0.01, 0.1)


@pytest.mark.parametrize("mu", [0.1, 0.5, 1.0, 3.0])
def test_the_table_of_a_plain_gaussian_is_its_closed_form(mu):
    found = risk([event(1 / mu)])
    for power, rate in zip(found.powers, RATES, strict=True):
        best = norm.sf(norm.isf(rate) - mu)
        assert power.false_positive_rate == rate
        assert best * (1 - 1e-9) <= power.true_positive_rate <= best * (1 + 1e-3)
        assert power.posterior == pytest.approx(best / (best + rate), rel=1e-3)
    assert found.advantage == pytest.approx(2 * norm.cdf(mu / 2) - 1, rel=1e-4)
    assert found.accuracy == pytest.approx(norm.cdf(mu / 2), rel=1e-4)
    assert mu <= found.gdp_mu <= mu * 1.002


def best_test(sigma, rate, false_alarms, *, swapped=False):
    """What the likelihood ratio test of one sampled Gaussian finds: it is a threshold on x."""

    def with_unit(z):
        return (1 - rate) * ndtr(-z / sigma) + rate * ndtr((1 - z) / sigma)

    x = np.linspace(-12 * sigma, 1 + 12 * sigma, 400_001)
    if swapped:  # alarms where x is small
        alarms, found = 1 - with_unit(x), ndtr(x / sigma)
    else:
        alarms, found = ndtr(-x / sigma)[::-1], with_unit(x)[::-1]
    return float(np.interp(false_alarms, alarms, found))


@pytest.mark.parametrize(("sigma", "rate"), [(0.5, 0.3), (1.0, 0.05), (2.0, 0.9)])
def test_one_sampled_gaussian_gives_away_what_its_best_test_finds_in_the_worse_direction(sigma, rate):
    loss = compose([event(sigma, rate)])
    for alarms in (*RATES, 0.4):
        best = max(best_test(sigma, rate, alarms), best_test(sigma, rate, alarms, swapped=True))
        assert best * (1 - 1e-5) <= 1 - trade_off(loss, alarms) <= best * (1 + 2e-3)


def test_a_sampled_run_gives_away_far_less_than_its_epsilon_and_delta_allow():
    """σ = 1, q = 0.01, 1,000 steps: 2.9 % found at 1 % false alarms, where ε = 1.83 and δ = 1e-5 allow 6.2 %."""
    run = [event(1.0, 0.01, 1000)]
    found, loss = risk(run), compose(run)
    assert found.powers[1].true_positive_rate == pytest.approx(0.029, abs=5e-4)
    assert found.advantage == pytest.approx(0.161, abs=5e-4)
    assert 0.01 * math.exp(loss.epsilon(1e-5)) + 1e-5 > 0.06


@settings(max_examples=12)
@given(events())
def test_the_trade_off_is_convex_falling_and_below_guessing(run):
    loss = compose(run)
    rates = np.linspace(0.001, 0.999, 60)
    missed = np.array([trade_off(loss, rate) for rate in rates])
    assert np.all(np.diff(missed) <= 1e-12)
    assert np.all(missed <= 1 - rates + 1e-12)
    # Each of the two directions is convex, and the advantage is the largest gap of either.
    assert (1 - rates - missed).max() <= loss.delta(0.0) + 1e-12


@settings(max_examples=12)
@given(events())
def test_a_covering_gaussian_is_above_the_curve_and_hardly_more_than_needed(run):
    loss = compose(run)
    mu = covering_mu(loss)
    epsilons = np.linspace(0, max(loss.epsilon(1e-12), 1e-6), 997)
    deltas = np.array([loss.delta(epsilon) for epsilon in epsilons])
    covered = gaussian_delta(mu, epsilons)
    assert np.all(covered >= deltas * (1 - 1e-9) - 1.1e-12)
    less = gaussian_delta(mu * 0.999, loss.removed.epsilons[loss.removed.epsilons >= 0])
    assert np.any(less < loss.removed.deltas[loss.removed.epsilons >= 0])


def test_the_covering_gaussian_is_not_that_of_the_central_limit_theorem():
    """Which would be μ = q √(T (e^(σ⁻²) − 1)) (arXiv 1911.11607), below what the run gives away."""
    run, rate, count = [event(0.6, 0.01, 300)], 0.01, 300
    limit = rate * math.sqrt(count * (math.exp(1 / 0.6**2) - 1))
    loss = compose(run)
    assert gaussian(limit, 3.0) < loss.delta(3.0) / 10
    assert covering_mu(loss) > 1.3 * limit


def test_nothing_gives_nothing_away_and_too_little_noise_everything():
    nothing, everything = risk([]), risk([event(1e-6)])
    assert (nothing.advantage, nothing.accuracy, nothing.gdp_mu) == (0, 0.5, 0)
    assert [power.true_positive_rate for power in nothing.powers] == pytest.approx(RATES)
    assert (everything.advantage, everything.gdp_mu) == (1, math.inf)
    assert [power.true_positive_rate for power in everything.powers] == [1, 1, 1]


@pytest.mark.parametrize(("sigma", "rate", "count"), [(1.0, 0.01, 1000), (0.8, 0.2, 20)])
def test_riskcal_finds_the_same(sigma, rate, count):
    analysis = pytest.importorskip("riskcal.analysis")
    from dp_accounting.pld.privacy_loss_distribution import from_gaussian_mechanism

    # On a finer grid rounding in the lower tail of this distribution has riskcal find less than there is.
    pld = from_gaussian_mechanism(sigma, sampling_prob=rate, value_discretization_interval=1e-3).self_compose(count)
    found = risk([event(sigma, rate, count)])
    assert found.advantage == pytest.approx(float(analysis.get_advantage_from_pld(pld)), rel=1e-3)
    for power in found.powers:
        missed = float(analysis.get_beta_from_pld(pld, power.false_positive_rate))
        assert power.true_positive_rate == pytest.approx(1 - missed, rel=3e-3)
