"""Weighted means of many small tensors, against sums in float64 one entry at a time; no order changes a bit."""

import random

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fedtune.adapters.slots import mask, narrow
from fedtune.aggregation import weighted_sum
from fedtune.aggregation.weighted_sum import WeightedSum
from fedtune.errors import WeightOutOfRange

SHAPES = {"a": (3, 4), "b": (4, 2), "c": (5,), "d": (1,)}
AXES = {"a": (0,), "b": (), "c": ()}
SLOTS = st.one_of(st.none(), st.sets(st.integers(0, 2), min_size=1).map(lambda some: tuple(sorted(some))))
NAMES = st.sets(st.sampled_from(sorted(SHAPES)), min_size=1)
TERMS = st.lists(st.tuples(NAMES, SLOTS, st.floats(0.5, 100), st.integers(0, 9)), min_size=1, max_size=6)


def added(terms, run):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(weighted_sum, "RUN", run)
        sums = WeightedSum(SHAPES, AXES)
        for names, slots, weight, seed in terms:
            sums.add(sums.term(narrow(delta(names, seed), AXES, slots), weight, slots))
        return sums.means()


def delta(names, seed):
    draw = torch.Generator().manual_seed(seed)
    return {name: torch.randn(SHAPES[name], generator=draw) for name in sorted(names)}


@settings(max_examples=60)
@given(TERMS, st.sampled_from([1, 9, 2**18]), st.randoms(use_true_random=False))
def test_means_are_those_of_plain_sums_in_any_order(terms, run, shuffle: random.Random):
    found = added(terms, run)
    assert found.keys() == {name for names, *_ in terms for name in names}
    for name, mean in found.items():
        total, weights = np.zeros(SHAPES[name]), np.zeros(SHAPES[name])
        for names, slots, weight, seed in terms:
            if name in names:
                reach = mask(SHAPES[name], AXES.get(name, ()), slots).double().numpy()
                total += weight * reach * delta(names, seed)[name].double().numpy()
                weights += weight * reach
        expected = np.where(weights > 0, total / np.maximum(weights, 1e-300), 0.0)
        np.testing.assert_allclose(mean.numpy(), expected, rtol=1e-12, atol=1e-13)
    mixed = list(terms)
    shuffle.shuffle(mixed)
    again = added(mixed, run)
    assert all(torch.equal(mean, again[name]) for name, mean in found.items())


def test_a_term_that_is_too_large_adds_nothing():
    sums = WeightedSum(SHAPES, AXES)
    sums.add(sums.term(delta("ac", 1), 2.0, None))
    before = sums.means()
    with pytest.raises(WeightOutOfRange):
        sums.term({**delta("a", 2), "c": torch.full((5,), 2.0**28)}, 2.0, None)
    assert all(torch.equal(mean, sums.means()[name]) for name, mean in before.items())
