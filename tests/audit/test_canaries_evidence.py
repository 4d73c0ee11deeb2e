"""What attacks make of a canary: directions, cosines and likelihood ratios against numbers taken by hand."""

import math

import numpy as np
import pytest
import torch
from scipy.stats import norm as normal

from fedtune.audit.canaries import direction
from fedtune.audit.canaries.directions import inner, norm
from fedtune.audit.canaries.evidence import along_direction, along_gradient, cosine

SHAPES = {"a": (30, 10), "b": (700,)}


def test_directions_have_norm_one_and_hardly_anything_in_common():
    ways = [direction(f"c{i}", SHAPES, seed=1) for i in range(12)]
    assert all(norm(way) == pytest.approx(1, abs=1e-5) for way in ways)
    assert torch.equal(ways[3]["a"], direction("c3", SHAPES, seed=1)["a"])
    others = [abs(inner(ways[i], ways[j])) for i in range(12) for j in range(i)]
    assert max(others) < 5 / math.sqrt(1000)
    assert abs(inner(ways[3], direction("c3", SHAPES, seed=2))) < 5 / math.sqrt(1000)


def test_a_direction_is_spread_evenly_over_tensors_of_different_sizes():
    shares = [float((direction(f"c{i}", SHAPES, seed=4)["a"] ** 2).sum()) for i in range(60)]
    assert np.mean(shares) == pytest.approx(0.3, abs=0.02)


def test_the_cosine_is_that_of_the_flattened_vectors():
    draw = np.random.default_rng(0)
    left, right = ({n: torch.tensor(draw.normal(size=s)).float() for n, s in SHAPES.items()} for _ in range(2))
    flat = [np.concatenate([state[name].numpy().ravel() for name in sorted(state)]) for state in (left, right)]
    expected = flat[0] @ flat[1] / np.linalg.norm(flat[0]) / np.linalg.norm(flat[1])
    assert cosine(left, right) == pytest.approx(expected, abs=1e-6)
    assert cosine({n: torch.zeros(s) for n, s in SHAPES.items()}, right) == 0.0


def test_going_against_a_gradient_counts_by_the_way_gone_and_not_by_the_gradients_length():
    gradient, update = {"a": torch.tensor([3.0, 4.0])}, {"a": torch.tensor([-0.3, -0.4]), "b": torch.ones(2)}
    assert along_gradient(update, gradient) == pytest.approx(0.5)
    assert along_gradient(update, {"a": gradient["a"] * 100}) == pytest.approx(0.5)
    assert along_gradient(update, {"a": torch.zeros(2)}) == 0.0
    assert along_gradient({"a": torch.ones(5)}, gradient) == 0.0


@pytest.mark.parametrize("rate", [0.2, 1.0])
def test_the_evidence_of_rounds_is_the_log_likelihood_ratio(rate):
    """Against densities: a round's step along the direction is a mixture where the canary is in, noise where not."""
    way = {"a": torch.tensor([0.0, 1.0])}
    steps, sigma, unit = [0.9, -0.4, 2.1], 0.7, 0.25
    states = [(0, {"a": torch.zeros(2)})]
    for round_, step in enumerate(steps, start=1):
        states.append((round_, {"a": states[-1][1]["a"] + torch.tensor([5.0, step * unit])}))
    expected = sum(
        math.log((rate * normal.pdf(x, 1, sigma) + (1 - rate) * normal.pdf(x, 0, sigma)) / normal.pdf(x, 0, sigma))
        for x in steps
    )
    found = along_direction(states, way, unit=unit, noise_multiplier=sigma, rate=rate)
    assert found == pytest.approx(expected, abs=1e-5)
