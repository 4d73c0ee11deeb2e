"""The private mean: its sum, its noise, its constant divisor, one release a round, and the clip that it remembers."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from fedtune.aggregation import Contribution, Global
from fedtune.aggregation.private import CLIP, PrivateMean, Release, make_private_aggregator
from fedtune.errors import NonFiniteUpdate, PrivacyError
from fedtune.privacy.adaptive import QuantileClip
from fedtune.recipe import AggregationSection
from tests.worlds import frame_for

STATE = {"m.R": torch.ones(3, 3), "head.w": torch.zeros(2, 4)}
NUMBERS = 17


class Seeded:
    """A source of standard normal numbers that a test can repeat."""

    def __init__(self, seed=0):
        self.generator = torch.Generator().manual_seed(seed)

    def normal(self, shape):
        return torch.randn(shape, generator=self.generator, dtype=torch.float64)


def silent(shapes):
    return {name: torch.zeros(shape, dtype=torch.float64) for name, shape in shapes.items()}


def release(noise=silent, *, clip=1.0, divisor=4.0, adapt=None):
    return Release(clip=clip, divisor=divisor, noise=noise, adapt=adapt, source=Seeded())


def mean_of(contributions, how, world=None, round_=1):
    mean = PrivateMean(frame_for(STATE), how)
    mean.begin(world or Global(STATE), round_)
    for contribution in contributions:
        mean.add(contribution)
    return mean


def contribution(value, client="a", weight=1.0):
    return Contribution(client, {name: torch.full_like(t, value) for name, t in STATE.items()}, weight)


def flat(state):
    return np.concatenate([state[name].double().reshape(-1).numpy() for name in STATE])


def test_the_sum_of_clipped_updates_is_divided_by_the_public_number_whoever_replied():
    for replied in (1, 2, 3):
        after = mean_of([contribution(5.0, str(k)) for k in range(replied)], release(clip=2.0, divisor=8.0)).finish()
        step = flat(after.state) - flat(STATE)
        np.testing.assert_allclose(step, replied * 2.0 / math.sqrt(NUMBERS) / 8.0, rtol=1e-5)


@given(st.lists(st.floats(-1e3, 1e3), max_size=5), st.floats(-1e3, 1e3), st.floats(0.01, 100))
def test_one_client_more_moves_the_state_by_the_clip_over_the_divisor_at_most(values, one, clip):
    how = release(clip=clip, divisor=4.0)
    others = [contribution(value, str(k)) for k, value in enumerate(values)]
    without = mean_of(others, how).finish().state
    with_one = mean_of([*others, contribution(one, "one")], how).finish().state
    # The state itself is fp32, which is post-processing.
    assert np.linalg.norm(flat(with_one) - flat(without)) <= clip / 4.0 + 1e-6 * np.abs(flat(with_one)).max() * NUMBERS


def test_the_noise_is_gaussian_of_the_standard_deviation_that_the_plan_says():
    source, sigma, clip, divisor = Seeded(3), 1.3, 0.5, 10.0

    def noise(shapes):
        return {name: source.normal(shape) * sigma for name, shape in shapes.items()}

    how, steps = release(noise, clip=clip, divisor=divisor), []
    for _ in range(400):
        after = mean_of([contribution(0.01)], how, Global({n: torch.zeros_like(t) for n, t in STATE.items()})).finish()
        steps.append((flat(after.state) - 0.01 / divisor) * divisor / (sigma * clip))
    assert stats.kstest(np.concatenate(steps), "norm").pvalue > 1e-4


def test_a_round_of_nobody_is_noise_on_every_tensor():
    how = release(lambda shapes: {name: torch.full(s, 2.0, dtype=torch.float64) for name, s in shapes.items()})
    after = mean_of([], how).finish()
    np.testing.assert_allclose(flat(after.state) - flat(STATE), 2.0 / 4.0, rtol=1e-6)


def test_a_round_is_released_once_and_not_before_it_began():
    mean = mean_of([contribution(1.0)], release())
    mean.finish()
    for act in (mean.finish, lambda: mean.add(contribution(1.0))):
        with pytest.raises(PrivacyError, match="released once"):
            act()
    with pytest.raises(PrivacyError):
        PrivateMean(frame_for(STATE), release()).finish()


@pytest.mark.parametrize("weight", [2.0, 0.5, 100.0])
def test_no_update_counts_for_more_or_less_than_one(weight):
    with pytest.raises(PrivacyError, match="uniform"):
        mean_of([contribution(1.0, weight=weight)], release())


def test_an_update_that_is_not_finite_is_set_aside():
    mean = mean_of([contribution(0.1)], release())
    with pytest.raises(NonFiniteUpdate):
        mean.add(contribution(math.nan))
    assert np.isfinite(flat(mean.finish().state)).all()


def test_an_update_of_some_slots_counts_as_zero_in_the_others():
    state = {"m.R": torch.zeros(3, 3)}
    mean = PrivateMean(frame_for(state, axes={"m.R": (0, 1)}, slots=3), release(clip=10.0, divisor=2.0))
    mean.begin(Global(state), 1)
    mean.add(Contribution("a", {"m.R": torch.ones(2, 2)}, 1.0, (0, 2)))
    expected = torch.tensor([[0.5, 0, 0.5], [0, 0, 0], [0.5, 0, 0.5]])
    torch.testing.assert_close(mean.finish().state["m.R"], expected, rtol=1e-5, atol=0)


def test_the_adapted_clip_is_remembered_in_the_world_and_used_by_the_next_round():
    adapt = QuantileClip(quantile=0.5, rate=1.0, count_noise=0.0, divisor=4.0)
    how = release(adapt=adapt)
    first = mean_of([contribution(9.0, str(k)) for k in range(4)], how).finish()
    grown = float(first.memory[CLIP].item())
    assert grown == pytest.approx(math.exp(0.5))
    second = mean_of([contribution(9.0)], how, first, 2).finish()
    step = flat(second.state) - flat(first.state)
    assert np.linalg.norm(step) == pytest.approx(grown / 4.0, rel=1e-4)


def test_a_fixed_clip_is_the_recipes_whatever_is_remembered():
    world = Global(STATE, memory={CLIP: torch.tensor([50.0], dtype=torch.float64)})
    after = mean_of([contribution(9.0)], release(clip=1.0, divisor=1.0), world).finish()
    assert np.linalg.norm(flat(after.state) - flat(STATE)) == pytest.approx(1.0, rel=1e-4)


def test_a_server_optimiser_steps_along_the_released_mean_and_keeps_the_clip():
    adapt = QuantileClip(quantile=0.5, rate=1.0, count_noise=0.0, divisor=4.0)
    section = AggregationSection(server_optimizer="avgm", server_momentum=0.5, server_lr=1.0)
    aggregator = make_private_aggregator(section, frame_for(STATE), release(adapt=adapt))
    aggregator.begin(Global(STATE), 1)
    aggregator.add(contribution(0.1))
    after = aggregator.finish()
    np.testing.assert_allclose(flat(after.state) - flat(STATE), 0.1 / 4.0, rtol=1e-4)
    assert {CLIP, "momentum/m.R", "momentum/head.w"} == set(after.memory)
