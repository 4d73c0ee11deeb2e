"""Monte-Carlo coverage: how often a bound lies above a truth that is known, over hundreds of audits."""

import numpy as np
import pytest
from scipy.stats import binom

from fedtune.audit.estimators import (
    clopper_pearson,
    cosine_bound,
    curve_p_value,
    one_run,
    one_run_against,
    one_run_fdp,
    one_run_gaussian,
)
from fedtune.audit.estimators.guesses import Calls, guess
from fedtune.audit.estimators.one_run import one_run_p_value
from fedtune.audit.estimators.tradeoff import gaussian, gaussian_epsilon
from tests.audit.scores_examples import gaussian_scores, response_scores, scores_of

RUNS, CONFIDENCE, DELTA = 150, 0.9, 1e-3
MOST = int(binom.ppf(0.9999, RUNS, 1 - CONFIDENCE))
"""More failures than this would come of a bound of this confidence once in ten thousand tests."""

BOUNDS = [one_run, one_run_fdp, one_run_gaussian, clopper_pearson]


@pytest.mark.parametrize("mu", [0.3, 1.5])
@pytest.mark.parametrize("bound", BOUNDS)
def test_bounds_on_a_gaussian_mechanism_exceed_the_truth_no_more_often_than_they_say(bound, mu):
    draw, truth = np.random.default_rng(11), gaussian_epsilon(mu, DELTA)
    found = [bound(gaussian_scores(draw, 120, mu), delta=DELTA, confidence=CONFIDENCE).epsilon for _ in range(RUNS)]
    assert sum(epsilon > truth for epsilon in found) <= MOST
    if mu > 1:
        assert np.median(found) > 0.1  # the test would also pass on zeros


@pytest.mark.parametrize("choice", ["grid", "split"])
@pytest.mark.parametrize("bound", [one_run, one_run_fdp])
def test_either_way_of_choosing_how_much_to_guess_is_paid_for(bound, choice):
    """Randomised response is the worst ε-DP mechanism there is: a choice that is not paid for shows."""
    draw, truth = np.random.default_rng(12), 1.0
    found = [
        bound(response_scores(draw, 120, truth), delta=0.0, confidence=CONFIDENCE, choice=choice).epsilon
        for _ in range(RUNS)
    ]
    assert sum(epsilon > truth for epsilon in found) <= MOST
    assert np.median(found) > 0.3


def test_a_number_of_guesses_chosen_without_payment_would_break_coverage():
    """The best of all numbers of guesses at the full level: what the estimators must not do."""
    draw, truth, above = np.random.default_rng(13), 1.0, 0
    for _ in range(RUNS):
        scores = response_scores(draw, 120, truth)
        tried = (one_run_p_value(guess(scores, Calls(made, 0)), truth, 0.0) for made in range(1, 121))
        above += min(tried) <= 1 - CONFIDENCE
    assert above > MOST


@pytest.mark.parametrize("thresholds", [[0.75], [0.0, 0.75, 1.5, 2.0, 2.5]])
def test_clopper_pearson_at_thresholds_fixed_beforehand_keeps_its_confidence(thresholds):
    draw, truth = np.random.default_rng(14), gaussian_epsilon(1.5, DELTA)
    found = [
        clopper_pearson(
            gaussian_scores(draw, 400, 1.5), delta=DELTA, confidence=CONFIDENCE, thresholds=thresholds
        ).epsilon
        for _ in range(RUNS)
    ]
    assert sum(epsilon > truth for epsilon in found) <= MOST
    assert np.median(found) > 0.5


def test_claims_that_are_true_are_refuted_no_more_often_than_their_p_values_say():
    draw, mu = np.random.default_rng(15), 1.0
    epsilon = gaussian_epsilon(mu, DELTA)
    runs = [gaussian_scores(draw, 120, mu) for _ in range(RUNS)]
    assert sum(curve_p_value(scores, gaussian(mu)) <= 1 - CONFIDENCE for scores in runs) <= MOST
    assert sum(one_run_against(s, epsilon=epsilon, delta=DELTA) <= 1 - CONFIDENCE for s in runs) <= MOST


def test_delta_pays_for_runs_that_give_everything_away():
    """One run in twenty names every coin: (0, 0.05)-DP, and all scores depend on one draw."""
    draw, runs, catastrophe, confidence = np.random.default_rng(16), 600, 0.05, 0.99
    most = int(binom.ppf(0.9999, runs, 1 - confidence))
    above = {0.0: 0, catastrophe: 0}
    for _ in range(runs):
        coins = draw.random(60) < 0.5
        shown = coins if draw.random() < catastrophe else draw.random(60) < 0.5
        for delta in above:
            above[delta] += one_run(scores_of(shown, coins), delta=delta, confidence=confidence).epsilon > 0
    assert above[catastrophe] <= most
    assert above[0.0] > most  # and a delta of zero would not have paid


def test_the_cosine_bound_keeps_its_confidence_on_directions_in_one_noised_sum():
    """Random directions, half of them inserted once into a sum with Gaussian noise: ε of the mechanism is known."""
    draw, canaries, dimension, sigma = np.random.default_rng(17), 60, 400, 0.8
    truth, above, found = gaussian_epsilon(1 / sigma, DELTA), 0, []
    for _ in range(RUNS):
        directions = draw.normal(size=(canaries, dimension))
        directions /= np.linalg.norm(directions, axis=1, keepdims=True)
        released = directions.sum(axis=0) + sigma * draw.normal(size=dimension)
        cosines = directions @ released / np.linalg.norm(released)
        bound = cosine_bound(
            {str(i): float(c) for i, c in enumerate(cosines)}, dimension=dimension, delta=DELTA, confidence=CONFIDENCE
        ).epsilon
        above += bound > truth
        found.append(bound)
    assert above <= MOST
    assert np.median(found) > 0.2
