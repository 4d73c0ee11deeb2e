"""Direct tests of recordings: how often they cry wolf, and what each alone sees."""

import dataclasses

import numpy as np
import pytest
from scipy.stats import binom

from fedtune.audit.checks import Release, check_events, check_mechanism, check_start
from fedtune.audit.checks.clip import check_clip
from fedtune.audit.checks.noise import check_fresh, check_normal, check_scale
from fedtune.audit.checks.sampling import check_each, check_overlap, check_rate, check_sizes
from fedtune.audit.checks.specimen import specimen_plan
from fedtune.errors import PrivacyError
from fedtune.privacy.events import Event

PLAN = specimen_plan(noise_multiplier=1.5, sampling_rate=0.2, steps=20)
ALL = [check_scale, check_normal, check_fresh, check_rate, check_sizes, check_overlap]


def recorded(draw: np.random.Generator, *, steps: int = 20, width: int = 60, rows: int = 50) -> list[Release]:
    """A mechanism as `PLAN` says."""
    return [
        Release(
            "one",
            draw.normal(size=width) * 1.5,
            largest=1.0,
            drawn=frozenset(np.flatnonzero(draw.random(rows) < 0.2).tolist()),
            available=rows,
        )
        for _ in range(steps)
    ]


@pytest.mark.parametrize("check", ALL)
def test_chance_alone_fails_a_sound_mechanism_as_rarely_as_p_values_say(check):
    draw = np.random.default_rng(21)
    runs = 50 if check is check_sizes else 150
    found = np.array([check(recorded(draw), PLAN).p_value for _ in range(runs)])
    assert np.sum(found < 0.05) <= binom.ppf(0.9999, runs, 0.05)
    assert np.mean(found > 0.2) > 0.6


def test_a_sound_recording_passes_every_test():
    findings = check_mechanism(recorded(np.random.default_rng(22)), PLAN)
    assert [finding.name for finding in findings if not finding.holds] == []
    assert len(findings) == 8


@pytest.mark.parametrize("factor", [0.0, 0.9, 1.1])
def test_noise_of_another_strength_is_seen(factor):
    draw = np.random.default_rng(23)
    releases = [dataclasses.replace(r, noise=r.noise * factor) for r in recorded(draw, width=400)]
    assert not check_scale(releases, PLAN).holds


def test_noise_of_the_right_strength_and_another_shape_is_seen():
    draw = np.random.default_rng(24)
    flat = [dataclasses.replace(r, noise=draw.uniform(-1, 1, 400) * 1.5 * 3**0.5) for r in recorded(draw)]
    assert check_scale(flat, PLAN).p_value > 1e-6
    assert not check_normal(flat, PLAN).holds


@pytest.mark.parametrize("share", [1.0, 0.6])
def test_noise_that_comes_back_later_or_at_another_client_is_seen(share):
    """Also where fresh noise is mixed in, and also with the sign turned."""
    draw = np.random.default_rng(25)
    releases = recorded(draw, width=400)
    again = -(share * releases[3].noise + (1 - share**2) ** 0.5 * draw.normal(size=400) * 1.5)
    releases[17] = dataclasses.replace(releases[17], who="two", noise=again)
    finding = check_fresh(releases, PLAN)
    assert not finding.holds
    assert "3 (one) and 17 (two)" in finding.found


def test_one_contribution_above_the_clip_is_one_too_many():
    releases = recorded(np.random.default_rng(26))
    assert check_clip(releases, PLAN).holds
    releases[5] = dataclasses.replace(releases[5], largest=1.001)
    assert not check_clip(releases, PLAN).holds


def test_batches_of_one_size_are_not_poisson_though_their_rate_is_right():
    draw = np.random.default_rng(27)
    fixed = [dataclasses.replace(r, drawn=frozenset(draw.permutation(50)[:10].tolist())) for r in recorded(draw)]
    assert check_rate(fixed, PLAN).holds
    assert not check_sizes(fixed, PLAN).holds


def test_rows_that_are_drawn_in_clumps_are_not_poisson():
    draw = np.random.default_rng(28)
    clumps = [
        dataclasses.replace(r, drawn=frozenset(range(50)) if draw.random() < 0.2 else frozenset())
        for r in recorded(draw, steps=60)
    ]
    assert not check_sizes(clumps, PLAN).holds


def test_an_epoch_that_shows_nobody_twice_is_not_poisson_though_sizes_vary_as_they_should():
    draw, releases = np.random.default_rng(29), []
    for one in recorded(draw, steps=40, rows=200):
        earlier = releases[-1].drawn if len(releases) % 2 else frozenset()
        others = sorted(set(range(200)) - earlier)
        drawn = frozenset(draw.choice(others, size=len(one.drawn), replace=False).tolist())
        releases.append(dataclasses.replace(one, drawn=drawn))
    assert check_sizes(releases, PLAN).holds
    assert not check_overlap(releases, PLAN).holds


def test_rows_that_are_drawn_too_often_are_seen():
    draw = np.random.default_rng(30)
    often = [dataclasses.replace(r, drawn=r.drawn | set(range(10))) for r in recorded(draw)]
    assert not check_rate(often, PLAN).holds


def test_one_row_that_is_always_drawn_is_seen_though_the_whole_rate_hides_it():
    draw = np.random.default_rng(32)
    releases = [dataclasses.replace(r, drawn=r.drawn | {7}) for r in recorded(draw)]
    assert check_rate(releases, PLAN).holds
    finding = check_each(releases, PLAN)
    assert not finding.holds
    assert "unit 7 of one was in 20 of 20" in finding.found


def test_what_was_not_seen_is_not_tested_and_nothing_at_all_is_refused():
    bare = [Release("one", np.random.default_rng(s).normal(size=80) * 1.5) for s in range(9)]
    assert [finding.name for finding in check_mechanism(bare, PLAN)] == [
        "noise scale",
        "noise distribution",
        "fresh noise",
    ]
    with pytest.raises(PrivacyError):
        check_mechanism([], PLAN)
    with pytest.raises(PrivacyError):
        Release.of("one", [1.0, 2.0], [1.0])


def test_a_plan_without_sampling_expects_everybody_each_time():
    plan, draw = specimen_plan(noise_multiplier=1.5, sampling_rate=1.0, steps=4), np.random.default_rng(31)
    whole = [dataclasses.replace(r, drawn=frozenset(range(50))) for r in recorded(draw, steps=4)]
    assert all(check(whole, plan).holds for check in (check_rate, check_sizes, check_overlap))
    whole[2] = dataclasses.replace(whole[2], drawn=frozenset(range(49)))
    assert not check_rate(whole, plan).holds


def test_what_ran_must_be_planned_with_its_noise_its_rate_and_no_more_often():
    (planned,) = PLAN.planned()
    assert check_events([planned], PLAN).holds
    assert check_events([planned.model_copy(update={"count": 3})], PLAN).holds
    for other in ({"count": 21}, {"noise_multiplier": 1.4}, {"sampling_rate": 0.3}, {"purpose": "init"}):
        assert not check_events([planned.model_copy(update=other)], PLAN).holds
    assert not check_events([planned, planned], PLAN).holds


def test_a_start_from_private_rows_is_paid_for_or_refused():
    paid = dataclasses.replace(PLAN, start_events=(Event(noise_multiplier=4, purpose="init"),))
    assert check_start("weights", PLAN).holds
    assert check_start("public-gradient", PLAN).holds
    assert not check_start("private-gradient", PLAN).holds
    assert not check_start("private-gradient", paid).holds
    assert not check_start("dp-gradient", PLAN).holds
    assert check_start("dp-gradient", paid).holds
