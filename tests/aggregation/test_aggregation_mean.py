"""The streaming mean is the float64 mean, whatever the order; memory is two tensors; a refused term leaves no trace."""

import math
import tracemalloc

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from fedtune.adapters.slots import narrow
from fedtune.aggregation import SCHEMES, Contribution, Global, make_aggregator
from fedtune.aggregation.exact_sum import MAX_TERMS, ExactSum
from fedtune.aggregation.weights import weigh
from fedtune.errors import RunError, WeightOutOfRange
from fedtune.recipe import AggregationSection
from fedtune.recipe.rules_aggregation import DIFFERENT_RANKS
from tests.worlds import frame_for

weights = st.integers(1, 5000)


def run_mean(state, deltas, given_weights):
    aggregator = mean_from(state)
    for number, (delta, weight) in enumerate(zip(deltas, given_weights, strict=True)):
        aggregator.add(Contribution(f"c{number}", delta, float(weight)))
    return aggregator.finish().state


def mean_from(state, frame=None):
    aggregator = make_aggregator(AggregationSection(), frame or frame_for(state))
    aggregator.begin(Global(state), 1)
    return aggregator


def random_state(seed, scale=1.0):
    generator = torch.Generator().manual_seed(seed)
    return {n: torch.randn(s, generator=generator) * scale for n, s in {"a.R": (4, 4), "head.w": (2, 7)}.items()}


@given(st.lists(weights, min_size=1, max_size=12), st.integers(0, 1000), st.sampled_from([1e-6, 1e-2, 1.0, 1e3]))
def test_the_mean_is_the_float64_mean(given_weights, seed, scale):
    state = random_state(seed)
    deltas = [random_state(seed + 1 + i, scale) for i in range(len(given_weights))]
    result = run_mean(state, deltas, given_weights)
    for name in state:
        stacked = np.stack([d[name].double().numpy() for d in deltas])
        expected = state[name].double().numpy() + np.average(stacked, axis=0, weights=given_weights)
        np.testing.assert_allclose(result[name].numpy(), expected, rtol=1e-6, atol=1e-7 * max(1.0, scale))


@given(st.lists(weights, min_size=2, max_size=12), st.randoms(use_true_random=False), st.integers(0, 1000))
def test_the_order_of_arrival_changes_no_bit(given_weights, random, seed):
    state = random_state(seed)
    pairs = [(random_state(seed + 1 + i, 10.0 ** (i % 9 - 6)), w) for i, w in enumerate(given_weights)]
    before = run_mean(state, *zip(*pairs, strict=True))
    random.shuffle(pairs)
    after = run_mean(state, *zip(*pairs, strict=True))
    assert all(torch.equal(before[name], after[name]) for name in state)


def test_plain_float64_addition_would_depend_on_the_order():
    """The property above is worth something: it fails for an ordinary running sum."""
    terms = [random_state(i, 10.0 ** (i % 9 - 6))["a.R"].double() * w for i, w in enumerate(range(3, 40))]
    forward = sum(terms[1:], start=terms[0])
    backward = sum(reversed(terms[:-1]), start=terms[-1])
    assert not torch.equal(forward, backward)


@given(st.lists(st.floats(-1e4, 1e4, width=32), min_size=1, max_size=50))
def test_the_exact_sum_is_within_its_grid_of_the_true_sum(values):
    total = ExactSum(())
    for value in values:
        total.add(torch.tensor(value, dtype=torch.float32))
    exact = math.fsum(values)
    assert abs(total.value().item() - exact) <= len(values) * 2.0**-51 + abs(exact) * 2.0**-52


def test_ten_thousand_terms_add_without_a_rounding_error():
    total = ExactSum((1,))
    for _ in range(10_000):
        total.add(torch.tensor([0.1]), 3.0)
    assert total.value().item() == pytest.approx(10_000 * 3 * float(np.float32(0.1)), rel=1e-15)


def test_a_term_beyond_the_range_is_refused_and_leaves_no_trace():
    aggregator = mean_from({"a": torch.zeros(2), "b": torch.zeros(2)})
    aggregator.add(Contribution("x", {"a": torch.ones(2), "b": torch.ones(2)}, 1.0))
    with pytest.raises(WeightOutOfRange, match="more than the sum can hold"):
        aggregator.add(Contribution("y", {"a": torch.ones(2), "b": torch.full((2,), 1e6)}, 1e5))
    assert aggregator.finish().state["a"].tolist() == [1.0, 1.0]


def test_more_terms_than_the_grids_hold_are_refused():
    total = ExactSum(())
    total._terms = MAX_TERMS
    with pytest.raises(WeightOutOfRange, match="at most 16384"):
        total.check(torch.ones(()))


def test_a_mean_of_nothing_is_refused():
    aggregator = mean_from({"a": torch.zeros(1)})
    with pytest.raises(RunError, match="no mean"):
        aggregator.finish()


def test_memory_does_not_grow_with_the_number_of_updates():
    def peak(updates):
        aggregator = mean_from({"w": torch.zeros(1000)})
        tracemalloc.start()
        for seed in range(updates):
            aggregator.add(Contribution(f"c{seed}", {"w": torch.full((1000,), float(seed))}, 1.0))
        used = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return used, aggregator._sums.bytes

    (small, tensors_small), (large, tensors_large) = peak(10), peak(1000)
    assert tensors_small == tensors_large == 16_000 + 16
    assert large < 2 * small + 4096


def test_weights_follow_the_recipe():
    assert weigh(70, AggregationSection()) == 70.0
    assert weigh(70, AggregationSection(weights="uniform")) == 1.0
    assert weigh(70, AggregationSection(weights="capped", weight_cap=50)) == 50.0


@pytest.mark.parametrize("scheme", SCHEMES)
def test_every_scheme_says_what_it_guarantees(scheme):
    said = SCHEMES[scheme]
    assert said.heterogeneous_for == DIFFERENT_RANKS.get(scheme, frozenset())
    assert (said.growth == "none") == said.aggregator.linear
    assert said.formula.keys() == {"up", "down"}


@given(st.lists(st.integers(1, 5), min_size=1, max_size=6), st.integers(0, 1000))
def test_each_entry_is_averaged_over_the_clients_that_trained_it(ranks, seed):
    """Nested leading blocks of a square: entry (i, j) is trained by the clients of rank above both."""
    axes = {"m.R": (0, 1)}
    draw = torch.Generator().manual_seed(seed)
    state = {"m.R": torch.randn(5, 5, generator=draw), "head.w": torch.randn(3, generator=draw)}
    deltas = [{name: torch.randn(t.shape, generator=draw) for name, t in state.items()} for _ in ranks]
    aggregator = mean_from(state, frame_for(state, axes=axes, slots=5))
    for number, (rank, delta) in enumerate(zip(ranks, deltas, strict=True)):
        slots = None if rank == 5 else tuple(range(rank))
        aggregator.add(Contribution(f"c{number}", narrow(delta, axes, slots), number + 1.0, slots))
    result = aggregator.finish().state["m.R"].double()
    for i in range(5):
        for j in range(5):
            there = [n for n, rank in enumerate(ranks) if max(i, j) < rank]
            moved = sum((n + 1) * deltas[n]["m.R"][i, j].double() for n in there)
            expected = state["m.R"][i, j].double() + (moved / sum(n + 1 for n in there) if there else 0)
            assert result[i, j].item() == pytest.approx(expected.item(), abs=1e-6)
