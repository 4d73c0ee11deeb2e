"""The coordinator's mechanism of client-level privacy: its draws, its noise, and that both are those of the plan."""

import itertools
import math
from collections import Counter

import numpy as np
import pytest
import torch
from scipy import stats

from fedtune.aggregation import Contribution, Global
from fedtune.aggregation.exact_sum import MAX_TERMS
from fedtune.aggregation.private import CLIP
from fedtune.errors import PrivacyError
from fedtune.privacy.adaptive import QuantileClip
from fedtune.privacy.banded import coefficients
from fedtune.privacy.events import jointly
from fedtune.privacy.plan import plan_of
from fedtune.recipe import Recipe
from server.private import client_privacy
from server.private_past import Past
from tests.worlds import frame_for

NAMES = [f"client-{k}" for k in range(12)]
STATE = {"m.R": torch.zeros(5, 5), "head.w": torch.zeros(3, 5)}
NUMBERS = 40
SAMPLED = {"sampling_rate": 0.25}
BANDED = {"mechanism": "banded", "min_separation": 3}


def recipe_with(section, **federation):
    base = {"unit": "client", "delta": 1e-5, "noise_multiplier": 2.0, "clip": 0.5, "population": 12}
    return Recipe.model_validate(
        {
            "model": {"name": "m"},
            "privacy": {**base, **section},
            "federation": {"rounds": 12, **federation},
            "aggregation": {"weights": "uniform"},
        }
    )


def banded(**changes):
    return recipe_with({**BANDED, **changes}, clients_per_round=4)


def mechanism(recipe, past=Past):
    made = client_privacy(recipe, frame_for(STATE), past)
    assert made is not None
    return made


def finish(private, names=(), value=0.0):
    """One round: whoever of `names` is drawn sends `value` everywhere; the step of the state, flat."""
    draw = private.draw(list(names))
    aggregator = private.aggregator(draw)
    aggregator.begin(Global(STATE), 1)
    for name in draw.clients:
        aggregator.add(Contribution(name, {n: torch.full_like(t, value) for n, t in STATE.items()}, 1.0))
    after = aggregator.finish()
    return np.concatenate([after.state[name].double().reshape(-1).numpy() for name in STATE])


@pytest.mark.parametrize(
    "section", [{}, {"unit": "none"}, {"unit": "example", "sampling_rate": 0.1}, {"noise": "client"}]
)
def test_only_noise_at_the_coordinator_is_its_part(section):
    recipe = recipe_with({**SAMPLED, **section})
    assert (client_privacy(recipe, frame_for(STATE), Past) is None) == bool(section)


def test_open_noise_is_not_guessed():
    with pytest.raises(PrivacyError, match="calibrates"):
        client_privacy(recipe_with({**SAMPLED, "noise_multiplier": None, "epsilon": 1.0}), frame_for(STATE), Past)


@pytest.mark.parametrize("rate", [0.05, 0.3, 0.9])
def test_every_client_is_drawn_as_often_as_the_rate_says(rate):
    private, rounds = mechanism(recipe_with({"sampling_rate": rate})), 3000
    times = Counter(name for _ in range(rounds) for name in private.draw(NAMES).clients)
    expected = rounds * rate
    statistic = sum((times[name] - expected) ** 2 / (expected * (1 - rate)) for name in NAMES)
    assert stats.chi2.sf(statistic, df=len(NAMES)) > 1e-5


def test_clients_are_drawn_independently_so_that_sizes_are_binomial():
    private, rounds, names = mechanism(recipe_with({"sampling_rate": 0.3})), 4000, NAMES[:4]
    sizes = Counter(len(private.draw(names).clients) for _ in range(rounds))
    expected = [rounds * stats.binom.pmf(size, len(names), 0.3) for size in range(5)]
    assert stats.chisquare([sizes[size] for size in range(5)], expected).pvalue > 1e-5


def test_two_clients_are_drawn_together_as_often_as_independence_says():
    private = mechanism(recipe_with({"sampling_rate": 0.5}))
    drawn = [set(private.draw(NAMES[:2]).clients) for _ in range(4000)]
    table = [
        [sum((NAMES[0] in d, NAMES[1] in d) == (a, b) for d in drawn) for b in (False, True)] for a in (False, True)
    ]
    assert stats.chi2_contingency(table).pvalue > 1e-5


def test_a_draw_says_what_the_books_need():
    draw = mechanism(recipe_with(SAMPLED)).draw(NAMES)
    assert (draw.sampling_rate, draw.population, draw.connected, draw.enough) == (0.25, 12, 12, None)
    turn = mechanism(banded()).draw(NAMES)
    assert (turn.sampling_rate, turn.population) == (None, 12)


@pytest.mark.parametrize(("asked", "separation", "most"), [(4, 3, 4), (2, 6, 2), (1, 12, 1)])
def test_turns_are_as_far_apart_and_as_few_as_the_plan_counts(asked, separation, most):
    """One number for both: with more clients than the bands need, turns come round later and cost less noise."""
    recipe = recipe_with(BANDED, clients_per_round=asked)
    plan = plan_of(recipe)
    private = mechanism(recipe)
    rows = [private.draw(NAMES).clients for _ in range(2 * plan.rounds)]
    turns = {name: [row for row, names in enumerate(rows) if name in names] for name in NAMES}
    assert plan.separation == separation
    assert max(map(len, turns.values())) == most
    assert all(np.diff(own).min(initial=separation) >= separation for own in turns.values())
    assert plan.run_events[0].noise_multiplier == pytest.approx(plan.noise_multiplier / math.sqrt(most), rel=1e-12)


def test_no_seed_moves_a_draw_or_the_noise():
    def seeded():
        torch.manual_seed(0)
        private = mechanism(recipe_with({"sampling_rate": 0.5}))
        return tuple(private.draw(NAMES).clients for _ in range(8)), finish(private).tobytes()

    runs = [seeded() for _ in range(3)]
    assert len({draws for draws, _ in runs}) == len({noise for _, noise in runs}) == 3


@pytest.mark.parametrize(("section", "divisor"), [(SAMPLED, 0.25 * 12), ({"sampling_rate": 1.0}, 12)])
def test_many_finishes_are_gaussian_with_the_plans_noise_over_the_public_divisor(section, divisor):
    """Kolmogorov and Smirnov over 300 rounds of 40 numbers in which nobody replies."""
    private = mechanism(recipe_with(section))
    steps = np.concatenate([finish(private) for _ in range(300)]) * divisor / (2.0 * 0.5)
    assert stats.kstest(steps, "norm").pvalue > 1e-4


def test_everybodys_mean_is_around_the_mean_of_the_clipped_updates():
    private = mechanism(recipe_with({"sampling_rate": 1.0}))
    rounds = 100
    mean = np.mean([finish(private, NAMES, 9.0) for _ in range(rounds)], axis=0)
    expected, spread = 0.5 / math.sqrt(NUMBERS), 2.0 * 0.5 / 12 / math.sqrt(rounds)
    assert np.abs(mean - expected).max() < 5 * spread


def test_banded_rounds_divide_by_the_public_number_and_start_with_the_whole_diagonal():
    steps = np.concatenate([finish(mechanism(banded())) for _ in range(300)])
    assert stats.kstest(steps * 4 / (2.0 * 0.5) * coefficients(3)[0], "norm").pvalue > 1e-4


def test_banded_rounds_are_correlated_as_the_inverse_says():
    pairs = []
    for _ in range(150):
        private = mechanism(banded())
        pairs.append((finish(private), finish(private)))
    first, second = (np.concatenate(column) for column in zip(*pairs, strict=True))
    zero, one = coefficients(3)[:2]
    # Row two of the inverse of a Toeplitz matrix: (−c₁/c₀², 1/c₀).
    slope = float(first @ second / (first @ first))
    assert slope == pytest.approx(-one / zero, abs=5 / math.sqrt(len(first)))


def test_banded_clients_keep_their_distance_and_everybody_gets_turns():
    private = mechanism(banded())
    rows = [set(private.draw(NAMES).clients) for _ in range(12)]
    for name in NAMES:
        own = [row for row, drawn in enumerate(rows) if name in drawn]
        assert len(own) == 4
        assert {later - earlier for earlier, later in itertools.pairwise(own)} == {3}


def test_a_client_has_no_more_turns_than_the_plan_pays_for_however_many_rows_are_aborted():
    private, recipe = mechanism(banded()), banded()
    rows = [set(private.draw(NAMES).clients) for _ in range(60)]
    most = max(sum(name in row for row in rows) for name in NAMES)
    assert recipe.privacy.noise_multiplier / math.sqrt(most) == plan_of(recipe).run_events[0].noise_multiplier


def test_turns_go_on_from_the_past():
    whole = mechanism(banded())
    rows = [whole.draw(NAMES).clients for _ in range(5)]
    resumed = mechanism(banded(), lambda: Past([[name.upper() for name in row] for row in rows], str.upper))
    assert [resumed.draw(NAMES).clients for _ in range(4)] == [whole.draw(NAMES).clients for _ in range(4)]


def test_a_draw_is_released_once_and_only_the_last_one():
    private = mechanism(recipe_with(SAMPLED))
    old, new = private.draw(NAMES), private.draw(NAMES)
    with pytest.raises(PrivacyError, match="a draw of its own"):
        private.aggregator(old)
    private.aggregator(new)
    with pytest.raises(PrivacyError, match="a draw of its own"):
        private.aggregator(new)


@pytest.mark.parametrize("recipe", [recipe_with(SAMPLED), banded()])
def test_more_clients_than_the_population_are_refused_before_anybody_is_drawn(recipe):
    with pytest.raises(PrivacyError, match="13 clients are connected"):
        mechanism(recipe).draw([*NAMES, "one-more"])


def test_a_draw_of_more_clients_than_a_sum_holds_is_refused():
    """One client more must not push another one out of the sum."""
    names = [f"client-{k}" for k in range(MAX_TERMS + 1)]
    with pytest.raises(PrivacyError, match="draw fewer"):
        mechanism(recipe_with({"sampling_rate": 1.0, "population": len(names)})).draw(names)


def test_an_adapted_clip_spends_what_the_plan_counts():
    recipe = recipe_with({**SAMPLED, "clip_quantile": 0.6, "count_noise": 0.7})
    private = mechanism(recipe)
    rule = private._adapt()
    assert isinstance(rule, QuantileClip)
    spent = plan_of(recipe).round_events[0].noise_multiplier
    assert jointly(recipe.privacy.noise_multiplier, rule.noise_multiplier) == pytest.approx(spent, rel=1e-12)
    assert rule.divisor == 3.0


def test_the_count_of_a_round_is_noised_before_it_moves_the_clip():
    recipe = recipe_with({**SAMPLED, "clip_quantile": 0.5, "count_noise": 0.7, "clip_rate": 1.0})
    clips = []
    for _ in range(200):
        private = mechanism(recipe)
        aggregator = private.aggregator(private.draw([]))
        aggregator.begin(Global(STATE), 1)
        clips.append(aggregator.finish().memory[CLIP].item())
    # Nobody replied: the share is one half and the noise of the count over the divisor.
    noise = -np.log(np.array(clips) / 0.5) * 3.0 / 0.7
    assert stats.kstest(noise, "norm").pvalue > 1e-4
