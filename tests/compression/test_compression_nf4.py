"""NormalFloat-4: the published levels, the nearest of them, and the error bound that is stated."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from scipy.stats import norm as gauss

from fedtune.compression.nf4 import LEVELS
from fedtune.errors import MalformedMessage
from tests.compression.updates import flat, normal, pipeline_of, there_and_back, updates


def test_the_levels_are_the_quantiles_of_the_paper():
    """Eight quantiles above zero and seven below, evenly spaced in probability, over the largest (arXiv 2305.14314)."""
    last = 0.9677083
    above, below = (gauss.ppf(np.linspace(last, 0.5, count)[:-1]) for count in (9, 8))
    levels = np.sort(np.concatenate([above, [0.0], -below]))
    np.testing.assert_allclose(LEVELS, levels / levels.max(), atol=1e-6)


@given(updates)
def test_every_number_takes_the_nearest_level(tensors):
    _, back = there_and_back(pipeline_of("nf4", block=16), tensors)
    for name, tensor in tensors.items():
        x, y = (t.double().numpy().reshape(-1) for t in (tensor, back[name]))
        for start in range(0, x.size, 16):
            piece = x[start : start + 16]
            grid = np.array(LEVELS) * np.abs(piece).max()
            least = np.abs(piece[:, None] - grid).min(axis=1)
            np.testing.assert_allclose(np.abs(piece - y[start : start + 16]), least, atol=1e-6 * np.abs(piece).max())
            assert (least <= 0.152 * np.abs(piece).max()).all()


@given(updates)
def test_two_numbers_take_a_byte(tensors):
    sent = pipeline_of("nf4").encode(tensors, seed=0)
    blocks = sum(math.ceil(t.numel() / 64) for t in tensors.values())
    assert sum(t.nbytes for t in sent.values()) == math.ceil(flat(tensors).size / 2) + 4 * blocks


def test_levels_and_zeros_come_back_as_they_are():
    tensors = {"w": torch.tensor(LEVELS) * 3, "zero": torch.zeros(7), "empty": torch.zeros(0, 4)}
    _, back = there_and_back(pipeline_of("nf4"), tensors)
    np.testing.assert_allclose(flat(back), flat(tensors), rtol=1e-6)


def test_the_error_of_normal_numbers_is_below_that_of_an_even_grid():
    tensors = normal([(4096,)])
    errors = {n: flat(there_and_back(pipeline_of(n), tensors)[1]) - flat(tensors) for n in ("nf4", "int4")}
    assert np.square(errors["nf4"]).mean() < 0.5 * np.square(errors["int4"]).mean()


def test_a_scale_that_is_no_number_is_refused():
    sent = {"nf4.codes": torch.zeros(1, dtype=torch.uint8), "nf4.scales": torch.tensor([math.inf])}
    with pytest.raises(MalformedMessage, match="'nf4' that is NaN or infinite"):
        pipeline_of("nf4").decode(sent, {"w": (2,)}, seed=0)


def test_a_code_beyond_the_last_number_is_refused():
    sent = {"nf4.codes": torch.tensor([0x71], dtype=torch.uint8), "nf4.scales": torch.ones(1)}
    with pytest.raises(MalformedMessage, match="beyond its last"):
        pipeline_of("nf4").decode(sent, {"w": (1,)}, seed=0)
