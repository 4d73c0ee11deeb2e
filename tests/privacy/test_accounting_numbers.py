"""ε against closed forms, brute force, and every other accountant: Opacus, dp-accounting, Flower."""

import math
import time
import warnings

import dp_accounting
import numpy as np
import pytest
from dp_accounting.pld import PLDAccountant
from dp_accounting.pld.privacy_loss_distribution import from_gaussian_mechanism
from dp_accounting.rdp import RdpAccountant
from flwr.serverapp import GaussianPrivacyEvent, NeighboringRelation, PrivacyConfig, SamplingMethod
from flwr.serverapp import RdpAccountant as FlowerAccountant
from opacus.accountants import PRVAccountant, RDPAccountant
from scipy.optimize import brentq

from fedtune.errors import PrivacyError
from fedtune.privacy.accounting import compose, curve, delta_of, epsilon_of
from fedtune.privacy.accounting.accountants import PRV_MOST
from fedtune.privacy.accounting.groups import MOST, groups_of, rounding
from tests.privacy.accounting_events import event, gaussian, sampled, sampled_pair

MIXED = [event(1.1, 0.02, 300), event(0.9, 0.01, 150), event(2.0, 0.1, 40), event(6.0, 1.0, 5), event(9.0, 1.0, 2)]


@pytest.mark.parametrize(
    ("rate", "sigma", "count", "delta", "pld", "rdp", "prv"),
    [
        (0.01, 1.0, 1000, 1e-5, 1.828, 2.101, 1.838),
        (0.01, 0.6, 300, 1e-5, 4.965, 6.057, 4.976),
        (0.05, 1.0, 200, 1e-5, 4.766, 5.368, 4.776),
        (0.1, 1.2, 100, 1e-4, 4.290, 4.880, 4.300),
        (0.25, 2.0, 40, 1e-3, 2.692, 3.119, 2.702),
        (1.0, 4.0, 50, 1e-5, 8.596, 9.235, 8.606),
    ],
)
@pytest.mark.filterwarnings("ignore:divide by zero:RuntimeWarning")
def test_known_mechanisms_cost_what_is_known(rate, sigma, count, delta, pld, rdp, prv):
    run = [event(sigma, rate, count)]
    assert epsilon_of(run, delta) == pytest.approx(pld, abs=6e-4)
    assert epsilon_of(run, delta, "dp-accounting") == pytest.approx(pld, abs=1e-3)
    assert epsilon_of(run, delta, "prv") == pytest.approx(prv, abs=6e-4)
    assert epsilon_of(run, delta, "rdp") == pytest.approx(rdp, rel=1e-3)


@pytest.mark.parametrize("mu", [0.01, 0.3, 1.7677669529663689, 6.0, 25.0])
@pytest.mark.parametrize("delta", [1e-3, 1e-5, 1e-8, 1e-12])
def test_a_plain_gaussian_costs_its_closed_form(mu, delta):
    spent = gaussian(mu, 0) > delta
    exact = brentq(lambda epsilon: gaussian(mu, epsilon) - delta, 0, 2000, xtol=1e-12) if spent else 0
    found = epsilon_of([event(1 / mu)], delta)
    assert exact * (1 - 1e-9) <= found <= exact * (1 + 1e-4) + 1e-9


@pytest.mark.parametrize(("sigma", "rate"), [(1.0, 0.01), (0.5, 0.3), (3.0, 0.9), (20.0, 0.1), (0.3, 1e-4)])
def test_one_sampled_gaussian_costs_its_closed_form_and_never_less(sigma, rate):
    loss = compose([event(sigma, rate)])
    for epsilon in [0.0, 1e-4, 0.003, 0.05, 0.31, 1.07, 2.9, 6.01]:
        exact = max(float(sampled(sigma, rate, epsilon)), float(sampled(sigma, rate, epsilon, added=True)))
        assert exact * (1 - 1e-7) - 1e-15 <= loss.delta(epsilon) <= exact * (1 + 1e-3) + 1e-14


@pytest.mark.parametrize(
    ("first", "second"), [((1.0, 0.01), (0.7, 0.05)), ((0.8, 0.5), (2.0, 0.2)), ((1.5, 0.3), (1.5, 0.3))]
)
def test_two_different_events_cost_what_quadrature_says(first, second):
    loss = compose([event(*first), event(*second)])
    for epsilon in [0.01, 0.2, 1.0, 2.5]:
        exact = sampled_pair(first, second, epsilon)
        assert exact * (1 - 1e-6) <= loss.removed.delta(epsilon) <= exact * (1 + 3e-4)


def test_a_mixed_run_agrees_with_dp_accounting_called_directly():
    direct = PLDAccountant(value_discretization_interval=5e-4)
    for one in MIXED:
        noise = dp_accounting.GaussianDpEvent(one.noise_multiplier)
        kind = noise if one.sampling_rate == 1 else dp_accounting.PoissonSampledDpEvent(one.sampling_rate, noise)
        direct.compose(dp_accounting.SelfComposedDpEvent(kind, one.count))
    for delta in (1e-3, 1e-5, 1e-8):
        assert epsilon_of(MIXED, delta) == pytest.approx(direct.get_epsilon(delta), rel=2e-4)
    for epsilon in (0.5, 2.0, 4.0):
        assert delta_of(MIXED, epsilon) == pytest.approx(direct.get_delta(epsilon), rel=2e-3)


def test_a_mixed_run_agrees_with_opacus_renyi_and_prv():
    history = [(one.noise_multiplier, one.sampling_rate, one.count) for one in MIXED if one.sampling_rate < 1]
    sampled_only = [one for one in MIXED if one.sampling_rate < 1]
    renyi, prv = RDPAccountant(), PRVAccountant()
    renyi.history, prv.history = list(history), list(history)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        expected = renyi.get_epsilon(1e-5)
    assert epsilon_of(sampled_only, 1e-5, "rdp") == pytest.approx(expected, rel=0.01)
    upper = prv.get_epsilon(1e-5)
    assert epsilon_of(sampled_only, 1e-5, "prv") == pytest.approx(upper, abs=1e-9)
    assert upper - 0.021 <= epsilon_of(sampled_only, 1e-5) <= upper


def test_renyi_figures_are_those_of_flower():
    config = PrivacyConfig(
        target_delta=1e-5,
        population_size=1000,
        neighboring_relation=NeighboringRelation.ADD_OR_REMOVE_ONE,
        sampling_method=SamplingMethod.POISSON,
    )
    flower = FlowerAccountant(config)
    flower.compose(GaussianPrivacyEvent(noise_multiplier=1.0, sample_size=10, population_size=1000), count=100)
    flower.compose(GaussianPrivacyEvent(noise_multiplier=1.4, sample_size=50, population_size=1000), count=60)
    run = [event(1.0, 0.01, 100), event(1.4, 0.05, 60)]
    assert epsilon_of(run, 1e-5, "rdp") == pytest.approx(flower.get_epsilon(1e-5), rel=1e-9)
    assert epsilon_of(run, 1e-5) < flower.get_epsilon(1e-5)


@pytest.mark.parametrize(
    ("sigma", "reported", "at_5", "at_rows", "at_6"),
    [(0.671, 1.0, 1.48, 1.58, 1.86), (0.491, 3.0, 3.95, 4.16, 4.72), (0.427, 5.0, 6.43, 6.73, 7.58)],
)
def test_a_published_protocol_reports_less_by_a_delta_of_one_over_the_batches(sigma, reported, at_5, at_rows, at_6):
    """Six epochs of 5,723 batches of 32 rows, δ = 1/batches: by Rényi divergences of whole orders, as it was read."""
    deltas = (1 / 5723, 1e-5, 1 / 183_122, 1e-6)
    renyi = RdpAccountant(orders=range(2, 65))
    renyi.compose(dp_accounting.PoissonSampledDpEvent(1 / 5723, dp_accounting.GaussianDpEvent(sigma)), 6 * 5723)
    whole = [renyi.get_epsilon(delta) for delta in deltas]
    np.testing.assert_allclose(whole, [reported, at_5, at_rows, at_6], rtol=0.01)
    run = [event(sigma, 1 / 5723, 6 * 5723)]
    fractional = [epsilon_of(run, delta, "rdp") for delta in deltas]
    tight = [epsilon_of(run, delta) for delta in deltas]
    assert all(a < b < c for a, b, c in zip(tight, fractional, whole, strict=True))
    assert tight[1] > 1.35 * tight[0]


def test_one_thousand_rounds_of_twelve_kinds_take_less_than_five_seconds():
    run = [event(0.7 + 0.1 * (i % 12), 0.01 + 0.003 * (i % 4)) for i in range(1000)]
    start = time.process_time()
    found = epsilon_of(run, 1e-5)
    assert time.process_time() - start < 5
    assert found == pytest.approx(epsilon_of(run, 1e-5, "dp-accounting"), rel=2e-3)


def test_up_to_a_thousand_different_events_are_composed_as_they_are():
    run = [event(1 + i / 1000, 0.01) for i in range(1000)]
    assert rounding([(one.noise_multiplier, one.sampling_rate) for one in run]) == 0
    assert groups_of(run) == tuple((one.noise_multiplier, 0.01, 1) for one in run)


def test_more_than_that_are_rounded_to_less_noise_and_likelier_draws_by_a_bounded_share():
    draw = np.random.default_rng(0)
    run = [event(float(s), float(q)) for s, q in draw.uniform((1, 0.01), (1.3, 0.012), (3000, 2))]
    share = rounding([(one.noise_multiplier, one.sampling_rate) for one in run])
    groups = groups_of(run)
    assert 0 < share <= 0.016
    assert len(groups) <= MOST
    assert sum(count for *_, count in groups) == 3000
    # Sorted, each event is dominated by one of the groups that is at most `share` away.
    sigmas = np.repeat([sigma for sigma, *_ in groups], [count for *_, count in groups])
    rates = np.repeat([rate for _, rate, _ in groups], [count for *_, count in groups])
    for found, true, ratio in (
        (np.sort(sigmas), np.sort([one.noise_multiplier for one in run]), 1 / (1 + share)),
        (np.sort(rates), np.sort([one.sampling_rate for one in run]), 1 + share),
    ):
        quotient = found / true
        assert min(1, ratio) - 1e-9 <= quotient.min() <= quotient.max() <= max(1, ratio) + 1e-9


def test_rounded_events_cost_a_little_more_and_never_less(monkeypatch):
    run = [event(1 + i / 60, 0.02, 3) for i in range(60)]
    exact = epsilon_of(run, 1e-5)
    monkeypatch.setattr("fedtune.privacy.accounting.groups.MOST", 30)
    assert len(groups_of(run)) <= 60
    rounded = epsilon_of(run, 1e-5)
    assert exact < rounded < exact * 1.04


def test_a_rate_that_few_kinds_of_events_have_is_not_rounded(monkeypatch):
    monkeypatch.setattr("fedtune.privacy.accounting.groups.MOST", 20)
    assert {rate for _, rate, _ in groups_of([event(1 + i / 90, 0.02 + i % 2) for i in range(0, 90, 2)])} == {0.02}


def test_nothing_costs_nothing_and_a_curve_of_it_is_zero():
    assert epsilon_of([], 1e-5) == 0
    assert delta_of([], 0.0) == 0
    assert all(epsilon == 0 for epsilon, _ in curve([]).by_delta)


def test_what_no_finite_epsilon_covers_is_infinite_and_no_error():
    assert epsilon_of([event(1e-6)], 1e-5) == math.inf
    assert epsilon_of([event(1e-6, 0.5, 10)], 1e-5) == math.inf
    assert delta_of([event(1e-6)], 10.0) == 1
    assert epsilon_of([event(1.0, 0.01, 100)], 1e-40) == math.inf
    assert delta_of([event(1.0)], math.inf) == 0


@pytest.mark.parametrize("sigma", [0.01, 1e5])
@pytest.mark.parametrize("rate", [1e-8, 0.9999999, 1.0])
@pytest.mark.parametrize("count", [1, 1_000_000])
def test_extreme_events_are_accounted_without_a_warning(sigma, rate, count):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        loss = compose([event(sigma, rate, count)])
    assert 0 <= loss.epsilon(1e-5) <= math.inf
    assert 0 <= loss.delta(1.0) <= loss.delta(0.0) <= 1


def test_a_name_or_number_that_means_nothing_is_refused():
    with pytest.raises(PrivacyError, match="no accountant"):
        epsilon_of([event(1.0)], 1e-5, "gdp")
    for delta in (0.0, 1.0, -1e-5, math.nan):
        with pytest.raises(PrivacyError, match="delta must be"):
            epsilon_of([event(1.0)], delta)
    for epsilon in (-0.1, math.nan):
        with pytest.raises(PrivacyError, match="epsilon must be"):
            delta_of([event(1.0)], epsilon)


@pytest.mark.parametrize(("delta", "theirs"), [(1e-5, 1e-6), (1e-12, -1.7e-4), (1e-14, -6.0e-3)])
def test_far_tails_hold_where_a_plain_transform_of_doubles_falls_below_the_truth(delta, theirs):
    """A thousand Gaussians of σ = 3, composed one by one by dp-accounting: why ε is not left to it."""
    mu = math.sqrt(1000) / 3
    exact = brentq(lambda epsilon: gaussian(mu, epsilon) - delta, 0, 1000, xtol=1e-12)
    assert exact * (1 - 1e-9) <= epsilon_of([event(3.0, 1.0, 1000)], delta) <= exact * (1 + 1e-4)
    google = from_gaussian_mechanism(3.0, value_discretization_interval=1e-3).self_compose(1000)
    assert google.get_epsilon_for_delta(delta) / exact - 1 == pytest.approx(theirs, rel=0.2, abs=1e-6)


@pytest.mark.filterwarnings("ignore:divide by zero:RuntimeWarning")
def test_prv_is_not_asked_where_it_is_slow_and_in_the_end_wrong():
    """Opacus itself says 709.8, the logarithm of the largest double, where 789.3 is spent."""
    run = [event(0.15)]
    assert 49.8 < epsilon_of(run, 1e-5) <= PRV_MOST
    assert epsilon_of(run, 1e-5, "prv") == pytest.approx(epsilon_of(run, 1e-5), abs=0.02)
    for sigma in (0.149, 0.028):
        with pytest.raises(PrivacyError, match=r"prv is not asked beyond ε = 50, .*: take pld"):
            epsilon_of([event(sigma)], 1e-5, "prv")


def test_a_curve_holds_epsilon_by_delta_and_delta_by_epsilon():
    table = curve(MIXED)
    assert [delta for _, delta in table.by_delta] == [pytest.approx(10**-k) for k in range(3, 13)]
    assert all(delta_of(MIXED, epsilon) == pytest.approx(delta, rel=1e-6) for epsilon, delta in table.by_delta)
    assert [epsilon for epsilon, _ in table.by_epsilon][:2] == [0.0, 0.1]
    deltas = [delta for _, delta in table.by_epsilon]
    assert deltas == sorted(deltas, reverse=True)
