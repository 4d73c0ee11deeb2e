"""What must hold of any events: order, grouping, monotony, and the bounds between compositions and accountants."""

import random

from hypothesis import given, settings
from hypothesis import strategies as st

from fedtune.privacy.accounting import compose, epsilon_of
from fedtune.privacy.accounting.groups import groups_of
from fedtune.privacy.events import grouped
from tests.privacy.accounting_events import event, events

GRID = 2e-4
"""What two grids may differ by, relatively."""
FEW = settings(max_examples=12)
DELTAS = st.sampled_from([1e-3, 1e-5, 1e-9])


@FEW
@given(events(), DELTAS, st.randoms(use_true_random=False))
def test_neither_order_nor_grouping_changes_what_is_spent(run, delta, shuffled: random.Random):
    apart = [event(one.noise_multiplier, one.sampling_rate, part) for one in run for part in halves(one.count)]
    shuffled.shuffle(apart)
    assert groups_of(apart) == groups_of(run) == groups_of(grouped(apart))
    assert epsilon_of(apart, delta) == epsilon_of(run, delta)


def halves(count):
    return [part for part in (count // 2, count - count // 2) if part]


@FEW
@given(events(), DELTAS, st.floats(1.01, 3))
def test_more_noise_never_costs_more(run, delta, factor):
    quieter = [event(one.noise_multiplier * factor, one.sampling_rate, one.count) for one in run]
    assert epsilon_of(quieter, delta) <= epsilon_of(run, delta) * (1 + GRID) + 1e-9


@FEW
@given(events(), DELTAS, st.floats(0.1, 0.99))
def test_rarer_sampling_never_costs_more(run, delta, factor):
    rarer = [event(one.noise_multiplier, one.sampling_rate * factor, one.count) for one in run]
    assert epsilon_of(rarer, delta) <= epsilon_of(run, delta) * (1 + GRID) + 1e-9


@FEW
@given(events(), DELTAS, events(most=1))
def test_more_events_never_cost_less_and_never_more_than_the_parts_together(run, delta, more):
    parts = [epsilon_of(run, delta / 2), epsilon_of(more, delta / 2)]
    both = epsilon_of([*run, *more], delta)
    assert both >= max(epsilon_of(run, delta), epsilon_of(more, delta)) * (1 - GRID) - 1e-9
    assert both <= sum(parts) * (1 + GRID) + 1e-9


@FEW
@given(events())
def test_epsilon_falls_as_delta_grows_and_the_two_curves_are_each_others_inverse(run):
    loss = compose(run)
    deltas = [10.0**-k for k in range(12, 0, -1)]
    epsilons = [loss.epsilon(delta) for delta in deltas]
    assert epsilons == sorted(epsilons, reverse=True)
    for epsilon, delta in zip(epsilons, deltas, strict=True):
        assert loss.delta(epsilon) <= delta * (1 + 1e-6)
        if epsilon > 1e-6:
            assert loss.delta(epsilon * (1 - 1e-5)) > delta * (1 - 1e-9)


@FEW
@given(events(), DELTAS)
def test_no_bound_of_renyi_is_below_that_of_the_loss_distribution(run, delta):
    assert epsilon_of(run, delta) <= epsilon_of(run, delta, "rdp") * (1 + GRID) + 1e-6


@FEW
@given(st.lists(st.builds(event, st.floats(0.8, 5), st.floats(0.01, 0.5), st.integers(1, 50)), min_size=1, max_size=3))
def test_googles_distributions_agree(run):
    ours, theirs = epsilon_of(run, 1e-5), epsilon_of(run, 1e-5, "dp-accounting")
    assert ours <= theirs * (1 + GRID) + 1e-6
    assert ours >= theirs * (1 - 0.02) - 1e-3


@FEW
@given(events())
def test_removing_and_adding_a_unit_are_both_below_what_is_reported(run):
    loss = compose(run)
    for epsilon in (0.0, 0.5, 2.0):
        assert loss.delta(epsilon) == max(loss.removed.delta(epsilon), loss.added.delta(epsilon))
