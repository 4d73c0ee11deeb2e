"""Weights found on a loss are better than equal ones, within their bounds, and the same for the same seed."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fedtune.experts.lorahub import BOUND, find_weights

TARGET = (1.0, -0.5, 0.0)


def bowl(weights):
    return sum((weight - wanted) ** 2 for weight, wanted in zip(weights, TARGET, strict=True))


@pytest.mark.parametrize("seed", range(5))
def test_the_weights_of_a_bowl_are_found(seed):
    found = find_weights(bowl, 3, steps=200, seed=seed, l1=0.0)
    assert found.start_loss == pytest.approx(bowl((1 / 3,) * 3))
    assert found.loss == pytest.approx(bowl(found.weights))
    assert found.loss < 0.02 * found.start_loss


@settings(max_examples=30)
@given(st.integers(0, 2**32), st.integers(1, 8), st.integers(1, 60), st.floats(0, 1))
def test_they_are_never_worse_than_equal_ones_and_within_their_bounds(seed, count, steps, l1):
    draw = torch.Generator().manual_seed(seed)
    slope = torch.randn(count, generator=draw, dtype=torch.float64)
    asked = []

    def loss(weights):
        asked.append(weights)
        return float(torch.cos(3 * slope @ torch.tensor(weights, dtype=torch.float64)) + slope.sum())

    found = find_weights(loss, count, steps=steps, seed=seed, l1=l1)
    assert len(asked) == steps + 1
    assert asked[0] == [1 / count] * count
    assert all(abs(weight) <= BOUND for weights in asked for weight in weights)
    price = sum(map(abs, found.weights)) / count
    assert found.loss + l1 * price <= found.start_loss + l1 / count + 1e-12


def test_a_price_keeps_weights_small():
    free = find_weights(lambda weights: -0.01 * sum(weights), 2, steps=200, l1=0.0)
    priced = find_weights(lambda weights: -0.01 * sum(weights), 2, steps=200, l1=1.0)
    assert min(free.weights) > 1.4
    assert max(map(abs, priced.weights)) < 0.1


def test_one_seed_gives_one_answer_and_another_another():
    first, again, other = (find_weights(bowl, 3, seed=seed) for seed in (1, 1, 2))
    assert first == again
    assert first != other


def test_a_mixture_without_a_loss_is_never_chosen():
    def loss(weights):
        return math.nan if max(weights) > 0.5 else -max(weights)

    found = find_weights(loss, 2, steps=100, l1=0.0)
    assert 0.4 < max(found.weights) <= 0.5
