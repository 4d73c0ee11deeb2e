"""The plan's events against the mechanisms: how far one unit moves what is released, in units of its noise."""

import itertools
import json
import math
from dataclasses import fields

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.linalg import toeplitz

from fedtune.errors import PrivacyError
from fedtune.privacy.accounting import epsilon_of
from fedtune.privacy.adaptive import UnclippedCount
from fedtune.privacy.banded import coefficients
from fedtune.privacy.events import Event, as_json, from_json, grouped, jointly
from fedtune.privacy.plan import Plan, calibrated, plan_of, separated_participations
from fedtune.privacy.updates import ClippedSum
from fedtune.recipe import Recipe

EXAMPLE = {"unit": "example", "delta": 1e-5, "noise_multiplier": 1.1, "sampling_rate": 0.05}
CLIENT = {"unit": "client", "delta": 1e-3, "noise_multiplier": 0.9, "sampling_rate": 0.2, "population": 50}
LOCAL = {"unit": "client", "delta": 1e-3, "noise_multiplier": 6.0, "noise": "client"}
BANDED = {"unit": "client", "delta": 1e-3, "noise_multiplier": 3.0, "population": 50, "mechanism": "banded"}


def recipe_with(privacy, *, rounds=7, steps=4, init="weights", **federation):
    return Recipe.model_validate(
        {
            "model": {"name": "m"},
            "adapter": {"kind": "square", "init": init},
            "training": {"steps": steps},
            "federation": {"rounds": rounds, **federation},
            "aggregation": {"weights": "uniform"},
            "privacy": privacy,
        }
    )


def planned(privacy, **other) -> Plan:
    plan = plan_of(recipe_with(privacy, **other))
    assert plan is not None
    return plan


def event(sigma, rate=1.0, count=1, purpose="train"):
    return Event(noise_multiplier=sigma, sampling_rate=rate, count=count, purpose=purpose)


# Example


def test_a_participant_of_every_round_takes_part_in_every_noised_step_of_it():
    plan = planned(EXAMPLE)
    assert (plan.unit, plan.relation, plan.trust, plan.sampler) == (
        "example",
        "add-or-remove-one",
        "client",
        "poisson-rows",
    )
    assert plan.round_events == (event(1.1, 0.05, 4),)
    assert plan.planned() == (event(1.1, 0.05, 28),)


def test_no_steps_spend_nothing():
    assert planned(EXAMPLE, steps=0).planned() == ()


def test_a_start_from_gradients_and_noised_scores_are_planned_beside_the_steps():
    plan = planned(
        {**EXAMPLE, "metrics": "noised", "metrics_noise": 25.0, "init_noise": 5.0}, init="dp-gradient", evaluate_every=3
    )
    # Before the first round, after 3 and 6, and after the last.
    assert set(plan.planned()) == {
        event(1.1, 0.05, 28),
        event(5.0, purpose="init"),
        event(25.0, count=4, purpose="metrics"),
    }
    assert planned(EXAMPLE).start_events == planned(EXAMPLE).evaluation_events == ()


@given(st.integers(1, 40), st.integers(0, 45))
def test_planned_evaluations_are_those_that_the_engine_makes(rounds, every):
    plan = planned({**EXAMPLE, "metrics": "noised"}, rounds=rounds, evaluate_every=every)
    made = sum(r in (0, rounds) or bool(every and r % every == 0) for r in range(rounds + 1))
    assert plan.evaluations == made


# Clients, noise at the coordinator


def test_sampled_clients_spend_one_sampled_gaussian_a_round():
    plan = planned(CLIENT)
    assert (plan.unit, plan.trust, plan.sampler) == ("client", "coordinator", "poisson-clients")
    assert plan.planned() == (event(0.9, 0.2, 7),)


def moved(clip, count_noise, sigma, others, one):
    """How far client `one` moves the released sum and count, each in units of the noise that is added to it."""
    values = []
    for updates in ([*others, one], others):
        total, count = ClippedSum({"w": (3,)}, clip), UnclippedCount()
        for update in updates:
            count.add(total.add({"w": update}))
        values.append(np.append(total.value()["w"].numpy() / (sigma * clip), count.value() / count_noise))
    return float(np.linalg.norm(values[0] - values[1]))


@pytest.mark.parametrize(("sigma", "count_noise", "clip"), [(0.9, 10.0, 1.0), (1.5, 0.4, 0.3), (4.0, 2.0, 20.0)])
def test_sum_and_count_together_move_by_the_joint_sensitivity_and_no_more(sigma, count_noise, clip):
    plan = planned({**CLIENT, "noise_multiplier": sigma, "clip_quantile": 0.5, "count_noise": count_noise})
    (joint,) = plan.round_events
    draw = torch.Generator().manual_seed(0)
    others = [torch.randn(3, generator=draw) * scale for scale in (0.01, 1.0, 100.0)]
    ones = [torch.randn(3, generator=draw) * 10.0**power for power in range(-3, 4)]
    worst = max(moved(clip, count_noise, sigma, others, one) for one in ones)
    assert worst <= 1 / joint.noise_multiplier
    # Reached by whoever is clipped, and by whoever is at the clip: the count moves by one half either way.
    assert worst == pytest.approx(1 / joint.noise_multiplier, rel=1e-5)
    assert joint.noise_multiplier < min(sigma, 2 * count_noise)
    assert joint.sampling_rate == 0.2


def test_the_joint_noise_is_that_of_the_adaptive_clipping_paper():
    """arXiv 1905.03871, theorem 1: z_Δ = (z^(-2) - (2 σ_b)^(-2))^(-1/2) for a joint z."""
    z, count_noise = 1.3, 5.0
    sum_noise = (z**-2 - (2 * count_noise) ** -2) ** -0.5
    assert jointly(sum_noise, 2 * count_noise) == pytest.approx(z, rel=1e-12)


@pytest.mark.parametrize(
    ("rounds", "bands", "population"),
    [(7, 3, 6), (9, 3, 6), (6, 1, 2), (4, 6, 12), (8, 4, 8), (9, 2, 9), (8, 3, 11), (7, 2, 50)],
)
def test_banded_rounds_are_one_release_that_no_separated_client_moves_further(rounds, bands, population):
    """Over every way that turns of two clients a round may fall, population/2 rounds apart or more."""
    privacy = {**BANDED, "min_separation": bands, "noise_multiplier": 3.0, "population": population}
    plan = planned(privacy, rounds=rounds, clients_per_round=2)
    (spent,) = plan.run_events
    assert plan.separation == max(bands, population // 2)
    assert plan.round_events == ()
    assert plan.planned() == (spent,)
    assert (plan.sampler, plan.bands, spent.sampling_rate) == ("separated", bands, 1.0)
    column = np.zeros(rounds)
    column[: min(rounds, bands)] = coefficients(bands)[:rounds]
    strategy = toeplitz(column, np.zeros(rounds))
    worst = 0.0
    for present in itertools.product((0, 1), repeat=rounds):
        at = np.flatnonzero(present)
        if np.all(np.diff(at) >= plan.separation):
            # Separated columns share no row, so neither signs nor directions of the updates matter.
            worst = max(worst, float(np.linalg.norm(strategy[:, at] @ np.ones(len(at)))))
    assert worst <= 3.0 / spent.noise_multiplier * (1 + 1e-12)
    last = (separated_participations(rounds, plan.separation) - 1) * plan.separation
    if last + bands <= rounds:  # the last turn has room for its whole column
        assert worst == pytest.approx(3.0 / spent.noise_multiplier, rel=1e-12)


def test_a_longer_period_of_turns_needs_less_noise_for_the_same_budget():
    opened = {**BANDED, "min_separation": 2, "noise_multiplier": None, "epsilon": 2.0}
    sigmas = []
    for asked in (25, 10, 1):
        settled = calibrated(recipe_with(opened, rounds=40, clients_per_round=asked))
        sigmas.append(settled.privacy.noise_multiplier)
    # 20, 8 and 1 participations.
    assert sigmas[0] / sigmas[2] == pytest.approx(math.sqrt(20), rel=1e-3)
    assert sigmas[1] / sigmas[2] == pytest.approx(math.sqrt(8), rel=1e-3)


# Clients, noise of their own


def test_local_noise_hides_which_of_two_updates_was_sent():
    plan = planned(LOCAL)
    (spent,) = plan.round_events
    assert (plan.trust, plan.relation, plan.sampler, spent.sampling_rate) == ("client", "replace-one", "none", 1.0)
    draw = torch.Generator().manual_seed(1)
    clip, sigma = plan.clip, plan.noise_multiplier

    def clipped(update):
        total = ClippedSum({"w": (3,)}, clip)
        total.add({"w": update})
        return total.value()["w"]

    for _ in range(50):
        one, other = (torch.randn(3, generator=draw) * 3 for _ in range(2))
        assert (clipped(one) - clipped(other)).norm() / (sigma * clip) <= 1 / spent.noise_multiplier
    opposite = torch.tensor([30.0, -40.0, 0.0])
    apart = (clipped(opposite) - clipped(-opposite)).norm() / (sigma * clip)
    assert float(apart) == pytest.approx(1 / spent.noise_multiplier, rel=1e-6)


# The whole


@pytest.mark.parametrize("privacy", [EXAMPLE, CLIENT, LOCAL, {**BANDED, "min_separation": 2}])
def test_what_is_planned_is_the_start_the_rounds_the_run_and_the_evaluations(privacy):
    plan = planned({**privacy, **({"metrics": "noised"} if privacy is EXAMPLE else {})})
    apart = [*plan.start_events, *plan.run_events]
    apart += [one for one in plan.round_events for _ in range(plan.rounds)]
    apart += [one for one in plan.evaluation_events for _ in range(plan.evaluations)]
    assert plan.planned() == grouped(apart)


@pytest.mark.parametrize("privacy", [EXAMPLE, CLIENT, LOCAL, {**BANDED, "min_separation": 2}])
def test_open_noise_is_calibrated_to_the_budget_of_all_rounds(privacy):
    opened = recipe_with({**privacy, "noise_multiplier": None, "epsilon": 2.5})
    with pytest.raises(PrivacyError, match="noise_multiplier is open"):
        plan_of(opened)
    settled = calibrated(opened)
    plan = plan_of(settled)
    assert 2.5 * 0.995 < epsilon_of(plan.planned(), plan.delta) <= 2.5
    assert calibrated(settled) == settled


def test_noise_that_misses_the_budget_beside_it_is_refused():
    with pytest.raises(PrivacyError, match="take noise_multiplier out"):
        calibrated(recipe_with({**EXAMPLE, "epsilon": 0.1}))
    enough = recipe_with({**EXAMPLE, "epsilon": 8.0})
    assert calibrated(enough) is enough


def test_a_start_that_spends_the_budget_alone_is_refused():
    recipe = recipe_with({**EXAMPLE, "noise_multiplier": None, "epsilon": 1.0, "init_noise": 0.5}, init="dp-gradient")
    with pytest.raises(PrivacyError, match="initialisation"):
        calibrated(recipe)


def test_no_promise_needs_no_plan():
    recipe = recipe_with({"unit": "none"})
    assert plan_of(recipe) is None
    assert calibrated(recipe) is recipe


@pytest.mark.parametrize("missing", ["delta", "both"])
def test_half_a_promise_is_refused(missing):
    privacy = {**EXAMPLE, "delta": None} if missing == "delta" else {**EXAMPLE, "noise_multiplier": None}
    with pytest.raises(PrivacyError, match="privacy needs delta"):
        calibrated(recipe_with(privacy))


def test_a_plan_is_json_and_its_events_come_back():
    plan = planned({**EXAMPLE, "metrics": "noised"}, init="dp-gradient")
    values = json.loads(json.dumps(plan.as_json()))
    assert set(values) == {field.name for field in fields(Plan)}
    for name in ("start_events", "round_events", "run_events", "evaluation_events"):
        assert from_json(values[name]) == getattr(plan, name)


# Events


SIGMAS, RATES = st.sampled_from([0.5, 1.0, 2.0]), st.sampled_from([0.1, 1.0])


@given(st.lists(st.builds(event, SIGMAS, RATES, st.integers(1, 5), st.sampled_from(["train", "init"])), max_size=12))
def test_grouping_counts_equal_events_and_keeps_purposes_apart(run):
    apart = sorted((e.noise_multiplier, e.sampling_rate, e.purpose) for e in run for _ in range(e.count))
    kept = grouped(run)
    assert sorted((e.noise_multiplier, e.sampling_rate, e.purpose) for e in kept for _ in range(e.count)) == apart
    assert len({(e.noise_multiplier, e.sampling_rate, e.purpose) for e in kept}) == len(kept)
    assert grouped(kept) == kept == grouped(reversed(run))
    assert from_json(as_json(kept)) == kept


@pytest.mark.parametrize(
    "wrong", [{"noise_multiplier": 0}, {"sampling_rate": 1.5}, {"sampling_rate": 0}, {"count": 0}, {"purpose": "x"}]
)
def test_an_event_that_is_no_mechanism_is_refused(wrong):
    with pytest.raises(ValueError, match="validation error"):
        from_json([{"noise_multiplier": 1.0, **wrong}])


@given(st.lists(st.floats(0.1, 50), min_size=1, max_size=5))
def test_joint_noise_is_the_inverse_length_of_the_scaled_sensitivities(sigmas):
    assert 1 / jointly(*sigmas) == pytest.approx(math.dist([1 / s for s in sigmas], [0] * len(sigmas)))
