"""What every estimator owes whatever comes in: monotone, never above what was possible, refusing what is no score."""

import math

import numpy as np
import pytest
from dp_accounting.pld import privacy_loss_distribution
from hypothesis import example, given, settings
from hypothesis import strategies as st
from scipy.stats import binom, norm

from fedtune.audit.estimators import (
    Scores,
    clopper_pearson,
    cosine_bound,
    cosine_estimate,
    curve_p_value,
    epsilon_from_counts,
    one_run,
    one_run_against,
    one_run_fdp,
    one_run_gaussian,
    reach,
)
from fedtune.audit.estimators.cosine import LARGEST, null_threshold, two_normals_epsilon
from fedtune.audit.estimators.guesses import Calls, Guesses, grid, guess
from fedtune.audit.estimators.one_run import one_run_p_value
from fedtune.audit.estimators.one_run_fdp import rejects_curve
from fedtune.audit.estimators.tradeoff import approximate, from_profile, gaussian, gaussian_delta, gaussian_epsilon
from fedtune.errors import PrivacyError
from tests.audit.scores_examples import gaussian_scores, scores_of

BOUNDS = [one_run, one_run_fdp, one_run_gaussian, clopper_pearson]
COUNTS = (
    st.tuples(st.integers(2, 60), st.integers(0, 60), st.integers(0, 60)).map(sorted).map(lambda t: Guesses(*t[::-1]))
)
LEVELS = st.floats(0.001, 0.3)


@given(COUNTS, st.floats(0, 4), st.floats(0, 4), st.sampled_from([0.0, 1e-5, 1e-2]))
def test_a_weaker_claim_is_no_less_likely(guesses, one, other, delta):
    low, high = sorted((one, other))
    assert one_run_p_value(guesses, low, delta) <= one_run_p_value(guesses, high, delta) + 1e-9
    assert one_run_p_value(guesses, low, 0.0) <= one_run_p_value(guesses, low, delta) + 1e-12


@given(COUNTS, st.floats(0, 4), st.sampled_from([0.0, 1e-5, 1e-2]))
def test_one_more_right_guess_is_no_more_likely(guesses, epsilon, delta):
    if guesses.correct < guesses.made:
        better = Guesses(guesses.canaries, guesses.made, guesses.correct + 1)
        assert one_run_p_value(better, epsilon, delta) <= one_run_p_value(guesses, epsilon, delta) + 1e-9


@given(COUNTS, st.floats(0, 4))
def test_without_delta_the_one_run_p_value_is_the_binomial_tail(guesses, epsilon):
    """Of randomised response, for which it is exact; summed here term by term."""
    right = math.exp(epsilon) / (1 + math.exp(epsilon))
    terms = [
        math.comb(guesses.made, k) * right**k * (1 - right) ** (guesses.made - k)
        for k in range(guesses.correct, guesses.made + 1)
    ]
    assert one_run_p_value(guesses, epsilon, 0.0) == pytest.approx(math.fsum(terms), rel=1e-9)


@given(COUNTS, st.floats(0, 3), st.sampled_from([1e-4, 1e-2]))
def test_delta_enters_as_the_papers_loop_does(guesses, epsilon, delta):
    right, total, steepest = math.exp(epsilon) / (1 + math.exp(epsilon)), 0.0, 0.0
    for i in range(1, guesses.correct + 1):
        total += binom.pmf(guesses.correct - i, guesses.made, right)
        steepest = max(steepest, total / i)
    tail = binom.sf(guesses.correct - 1, guesses.made, right)
    expected = min(1.0, tail + 2 * guesses.canaries * delta * steepest)
    assert one_run_p_value(guesses, epsilon, delta) == pytest.approx(expected, rel=1e-8, abs=1e-12)


@given(COUNTS, LEVELS, st.floats(0, 3), st.floats(0, 3))
def test_a_curve_is_refuted_wherever_a_stronger_claim_is_kept_and_never_the_other_way(guesses, alpha, one, other):
    low, high = sorted((one, other))
    if rejects_curve(guesses, gaussian(high), alpha):
        assert rejects_curve(guesses, gaussian(low), alpha)


@given(COUNTS, LEVELS, st.floats(0, 3))
def test_one_more_right_guess_refutes_no_less(guesses, alpha, mu):
    if guesses.correct < guesses.made and rejects_curve(guesses, gaussian(mu), alpha):
        assert rejects_curve(Guesses(guesses.canaries, guesses.made, guesses.correct + 1), gaussian(mu), alpha)


@given(st.integers(1, 12), st.floats(0.0, 2.0), st.sampled_from([0.01, 0.05, 0.2]))
@settings(max_examples=50)
def test_no_mechanism_of_pure_privacy_is_refuted_more_often_than_the_level(canaries, epsilon, alpha):
    """Randomised response on every coin, all outcomes enumerated: the chance of refusing it is at most the level."""
    right = math.exp(epsilon) / (1 + math.exp(epsilon))
    refused = sum(
        binom.pmf(correct, canaries, right)
        for correct in range(canaries + 1)
        if rejects_curve(Guesses(canaries, canaries, correct), approximate(epsilon, 0.0), alpha)
    )
    assert refused <= alpha + 1e-9


@given(st.integers(1, 200), st.data())
def test_hits_and_false_alarms_move_the_classic_bound_the_right_way(trials, data):
    hits, alarms = data.draw(st.integers(0, trials)), data.draw(st.integers(0, trials))
    base = epsilon_from_counts((hits, trials), (alarms, trials), delta=0.0, alpha=0.05)
    assert base >= 0
    if hits >= alarms and hits < trials:
        assert epsilon_from_counts((hits + 1, trials), (alarms, trials), delta=0.0, alpha=0.05) >= base - 1e-12
    if hits <= alarms:
        assert base == 0.0
    assert epsilon_from_counts((hits, trials), (alarms, trials), delta=0.1, alpha=0.05) <= base + 1e-12


@pytest.mark.parametrize("bound", [one_run, one_run_fdp, clopper_pearson])
def test_a_perfect_attack_ends_near_what_so_many_canaries_can_show(bound):
    """All right among M guesses refutes ε where (e^ε/(1+e^ε))^M falls below the level: no bound goes above that."""
    coins = np.random.default_rng(0).random(400) < 0.5
    limit = -math.log(math.exp(-math.log(0.05) / 400) - 1)
    assert 2.0 < bound(scores_of(coins, coins), delta=0.0).epsilon <= limit
    assert bound(scores_of(np.random.default_rng(1).permutation(coins), coins), delta=0.0).epsilon < 0.5


@pytest.mark.parametrize("bound", BOUNDS)
def test_more_canaries_tell_more_and_never_more_than_is_true(bound):
    truth = gaussian_epsilon(2.0, 1e-4)
    few, many = (
        bound(gaussian_scores(np.random.default_rng(3), canaries, 2.0), delta=1e-4).epsilon for canaries in (50, 3000)
    )
    assert few < many < truth
    assert many > 0.2 * truth


def test_the_gaussian_family_is_tighter_than_no_family_at_all():
    scores = gaussian_scores(np.random.default_rng(4), 3000, 1.0)
    assert one_run_gaussian(scores, delta=1e-5).epsilon > one_run_fdp(scores, delta=1e-5).epsilon
    assert one_run_gaussian(scores, delta=1e-5).assumption == "gaussian"
    assert one_run_fdp(scores, delta=1e-5).assumption == "none"


@pytest.mark.parametrize("bound", BOUNDS)
def test_scores_that_say_nothing_give_nothing(bound):
    coins = np.random.default_rng(5).random(500) < 0.5
    assert bound(scores_of(np.zeros(500), coins), delta=1e-5).epsilon < 0.3


def test_a_claim_is_refuted_by_its_bound_and_its_p_value_alike():
    scores = gaussian_scores(np.random.default_rng(6), 1000, 3.0)
    bound = one_run(scores, delta=1e-5, confidence=0.95).epsilon
    assert one_run_against(scores, epsilon=bound, delta=1e-5) <= 0.05 + 1e-6
    assert one_run_against(scores, epsilon=bound + 0.01, delta=1e-5) > 0.05
    assert curve_p_value(scores, gaussian(1.0)) < 1e-3 < curve_p_value(scores, gaussian(3.0))


@given(st.dictionaries(st.text(max_size=4), st.floats(allow_nan=False), min_size=1, max_size=9), st.randoms())
def test_scores_are_joined_by_name_in_whatever_order_they_come(scores, shuffler):
    coins = {name: position % 2 == 0 for position, name in enumerate(scores)}
    shuffled = list(coins.items())
    shuffler.shuffle(shuffled)
    joined = Scores.join(scores, dict(shuffled))
    assert {n: (v, bool(c)) for n, v, c in zip(joined.names, joined.values, joined.inserted, strict=True)} == {
        name: (scores[name], coins[name]) for name in scores
    }


@pytest.mark.parametrize(
    ("scores", "coins", "words"),
    [
        ({"a": 1.0}, {"b": True}, "different canaries"),
        ({"a": 1.0, "b": 2.0}, {"a": True}, "different canaries"),
        ({}, {}, "no"),
        ({"a": float("nan")}, {"a": True}, "not a number"),
    ],
)
def test_scores_that_do_not_fit_their_coins_are_refused(scores, coins, words):
    with pytest.raises(PrivacyError, match=words):
        Scores.join(scores, coins)


@pytest.mark.parametrize(("confidence", "delta"), [(0.0, 0.1), (1.0, 0.1), (math.nan, 0.1), (0.9, 1.0), (0.9, -0.1)])
@pytest.mark.parametrize("bound", BOUNDS)
def test_levels_that_are_no_probabilities_are_refused(bound, confidence, delta):
    with pytest.raises(PrivacyError):
        bound(scores_of([0.0, 1.0], [False, True]), delta=delta, confidence=confidence)


@given(st.integers(1, 300), st.integers(0, 400), st.integers(0, 400))
def test_guesses_are_as_many_as_asked_and_look_at_no_coin(canaries, called_in, called_out):
    values, calls = np.arange(canaries) % 7, Calls(called_in, called_out)
    inserted, opposite = (guess(scores_of(values, np.full(canaries, coin)), calls) for coin in (True, False))
    assert inserted.made == min(called_in + called_out, canaries)
    assert inserted.correct + opposite.correct == inserted.made
    assert inserted.correct == min(called_in, canaries)
    assert all(1 <= tried.called_in + tried.called_out <= canaries for tried in grid(canaries))


@given(st.floats(0.05, 4), st.floats(0, 6))
@settings(max_examples=20)
def test_a_gaussians_profile_is_that_of_dp_accounting(mu, epsilon):
    pld = privacy_loss_distribution.from_gaussian_mechanism(1 / mu, value_discretization_interval=1e-3)
    assert gaussian_delta(mu, epsilon) == pytest.approx(pld.get_delta_for_epsilon(epsilon), rel=0.01, abs=1e-6)
    delta = gaussian_delta(mu, epsilon)
    if 1e-12 < delta < gaussian_delta(mu, 0.0):
        assert gaussian_epsilon(mu, delta) == pytest.approx(epsilon, abs=1e-3)


@given(st.floats(0.1, 3), st.floats(0, 1))
def test_a_curve_from_pairs_lies_below_the_mechanisms_own(mu, x):
    pairs = [(epsilon, gaussian_delta(mu, epsilon)) for epsilon in np.linspace(0, 20, 200)]
    assert from_profile(pairs)(x) <= gaussian(mu)(x) + 1e-12
    assert from_profile(pairs)(x) >= gaussian(mu)(x) - 0.02


@given(st.floats(0, 3), st.floats(0, 0.5), st.floats(0, 1))
def test_the_curve_of_epsilon_and_delta_is_the_one_from_its_single_pair(epsilon, delta, x):
    assert approximate(epsilon, delta)(x) == pytest.approx(from_profile([(epsilon, delta)])(x), abs=1e-12)


@given(st.floats(-2, 2), st.floats(0.2, 2), st.floats(0.2, 2), st.sampled_from([1e-2, 1e-3, 1e-5]))
@settings(max_examples=40)
@example(mean=0.0, left=2.0, right=0.25, delta=1e-5)
def test_two_normals_are_as_far_apart_as_numbers_say(mean, left, right, delta):
    epsilon = min(two_normals_epsilon((0.0, left), (mean, right), delta), LARGEST)
    x = np.linspace(-30, 30, 60_001)
    p, q = norm.logpdf(x, 0, left), norm.logpdf(x, mean, right)
    above = [np.exp(a) * -np.expm1(np.minimum(0, epsilon + b - a)) for a, b in ((p, q), (q, p))]
    reached = max(np.trapezoid(values, x) for values in above)
    assert epsilon == LARGEST or reached <= delta * 1.02 + 1e-7
    if epsilon > 1e-6:
        assert reached >= delta * 0.98 - 1e-7


@pytest.mark.parametrize("dimension", [3, 40, 5000])
def test_the_null_threshold_is_exceeded_as_often_as_it_says(dimension):
    draw = np.random.default_rng(7)
    random = draw.normal(size=(20_000, min(dimension, 40)))
    rest = draw.chisquare(dimension - 40, size=20_000) if dimension > 40 else 0
    cosines = random[:, 0] / np.sqrt((random**2).sum(axis=1) + rest)
    assert np.mean(cosines > null_threshold(dimension, 0.05)) == pytest.approx(0.05, abs=0.006)


def test_the_cosine_estimate_is_no_bound_and_is_near_the_truth_on_a_gaussian_sum():
    draw, dimension, sigma = np.random.default_rng(8), 20_000, 0.5
    directions = draw.normal(size=(60, dimension))
    directions /= np.linalg.norm(directions, axis=1, keepdims=True)
    released = directions.sum(axis=0) + sigma * draw.normal(size=dimension)
    cosines = {str(i): float(c) for i, c in enumerate(directions @ released / np.linalg.norm(released))}
    estimate, truth = cosine_estimate(cosines, dimension=dimension, delta=1e-5), gaussian_epsilon(1 / sigma, 1e-5)
    assert estimate.epsilon == pytest.approx(truth, rel=0.35)
    assert not hasattr(estimate, "confidence")
    assert cosine_bound(cosines, dimension=dimension, delta=1e-5).epsilon < truth


@pytest.mark.parametrize("cosines", [{}, {"a": float("nan"), "b": 0.1}, {"a": 1.5, "b": 0.0}])
def test_what_is_no_cosine_is_refused(cosines):
    for estimator in (cosine_estimate, cosine_bound):
        with pytest.raises(PrivacyError):
            estimator(cosines, dimension=10, delta=1e-5)


@pytest.mark.parametrize("canaries", [2, 50, 400])
def test_no_audit_sees_further_than_its_reach(canaries):
    furthest = reach(canaries, delta=1e-5, confidence=0.95)
    coins = np.random.default_rng(9).random(canaries) < 0.5
    for bound in (one_run, one_run_fdp):
        assert bound(scores_of(coins, coins), delta=1e-5).epsilon <= furthest + 1e-6
    assert furthest <= math.log(canaries / -math.log(0.95)) + 0.1
    assert (furthest > 1) == (canaries >= 50)
