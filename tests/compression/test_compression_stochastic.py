"""int8 and int4: within one step, right in the mean, zero stays zero, and the sizes that are stated."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from fedtune.compression import STAGES
from fedtune.compression.pipeline import Pipeline
from fedtune.compression.vector import layout_of
from fedtune.errors import MalformedMessage
from tests.compression.updates import flat, normal, pipeline_of, settings, there_and_back, updates

STEPS = {"int8": 127, "int4": 7}
names = pytest.mark.parametrize("name", STEPS)


def scales_of(tensors, block, steps):
    """For each number its block's largest magnitude over the steps, float64; blocks end with their tensor."""
    made = [np.zeros(0)]
    for tensor in (tensors[name].double().numpy().reshape(-1) for name in sorted(tensors)):
        for start in range(0, tensor.size, block):
            piece = tensor[start : start + block]
            made.append(np.full(piece.size, np.abs(piece).max() / steps))
    return np.concatenate(made)


@names
@given(updates, st.sampled_from([8, 16, 64]), st.integers(0, 1000))
def test_every_number_is_within_one_step_and_on_the_grid(name, tensors, block, seed):
    _, back = there_and_back(pipeline_of(name, block=block), tensors, seed=seed)
    scales = scales_of(tensors, block, STEPS[name])
    assert (np.abs(flat(back) - flat(tensors)) <= scales * (1 + 1e-4)).all()
    steps = flat(back) / np.where(scales > 0, scales, 1)
    np.testing.assert_allclose(steps, np.round(steps), atol=1e-4)


@names
def test_the_mean_over_seeds_is_the_update(name):
    """Each rounding has a variance of at most s²/4, so the mean of n lies within 5·s/(2·√n), 5 standard errors."""
    tensors, count = normal([(60,), (5, 5)], seed=3), 2000
    pipeline = pipeline_of(name, block=16)
    mean = sum(flat(there_and_back(pipeline, tensors, seed=seed)[1]) for seed in range(count)) / count
    bound = 5 * scales_of(tensors, 16, STEPS[name]) / (2 * math.sqrt(count))
    assert (np.abs(mean - flat(tensors)) <= bound + 1e-6).all()


@names
def test_rounding_to_the_nearest_would_not_be_right_in_the_mean(name):
    """The bound above is worth something: a rounding that is not random breaks it."""
    tensors = normal([(60,), (5, 5)], seed=3)
    scales = scales_of(tensors, 16, STEPS[name])
    nearest = np.round(flat(tensors) / scales) * scales
    assert (np.abs(nearest - flat(tensors)) > 5 * scales / (2 * math.sqrt(2000)) + 1e-6).any()


@names
def test_zeros_and_the_largest_stay_what_they_are(name):
    tensors = {"w": torch.tensor([0.0, 3.0, 0.0, -3.0] * 4), "v": torch.zeros(9), "u": torch.zeros(0)}
    _, back = there_and_back(pipeline_of(name, block=8), tensors)
    np.testing.assert_allclose(flat(back), flat(tensors), rtol=1e-6)


@names
def test_blocks_do_not_cross_tensors(name):
    tensors = {"a": torch.full((3,), 1e6), "b": torch.full((3,), 1e-6)}
    _, back = there_and_back(pipeline_of(name), tensors)
    assert back["b"].tolist() == pytest.approx([1e-6] * 3)


@names
@pytest.mark.parametrize("units", [1, 10, 189])
def test_numbers_too_small_for_a_scale_keep_their_sign(name, units):
    """A scale of one and a half of the least fp32 number is rounded to one: the numbers lie beyond the last symbol."""
    tensors = {"w": torch.tensor([units, -units] * 4, dtype=torch.float32) * 2.0**-149}
    _, back = there_and_back(pipeline_of(name, block=8), tensors)
    assert (np.abs(flat(back)) <= np.abs(flat(tensors))).all()
    assert (flat(back) * np.sign(flat(tensors)) >= 0).all()


@given(updates)
def test_the_sizes_are_the_stated_ones(tensors):
    count, blocks = flat(tensors).size, sum(math.ceil(t.numel() / 64) for t in tensors.values())
    sent = {name: pipeline_of(name).encode(tensors, seed=0) for name in STEPS}
    assert sum(t.nbytes for t in sent["int8"].values()) == count + 4 * blocks
    assert sum(t.nbytes for t in sent["int4"].values()) == math.ceil(count / 2) + 4 * blocks


@given(updates, st.integers(0, 1000))
def test_packed_or_left_for_a_coder_the_numbers_are_the_same(tensors, seed):
    packed = Pipeline((STAGES["int4"](settings()),))
    coded = Pipeline((STAGES["int4"](settings(), coded=True),))
    (small, one), (symbols, other) = (there_and_back(p, tensors, seed=seed) for p in (packed, coded))
    assert symbols["int4.symbols"].dtype == torch.int8
    assert small["int4.symbols"].nbytes == (symbols["int4.symbols"].nbytes + 1) // 2
    assert np.array_equal(flat(one), flat(other))


def test_a_coder_later_in_the_pipeline_is_what_decides():
    assert [stage.coded for stage in pipeline_of("top-k", "int4", "entropy").stages] == [True, True, False]
    assert [stage.coded for stage in pipeline_of("top-k", "int4", "fp16").stages] == [False, False, False]


@names
@pytest.mark.parametrize("scale", [math.nan, math.inf])
def test_a_scale_that_is_no_number_is_refused(name, scale):
    pipeline = pipeline_of(name)
    sent = pipeline.encode({"w": torch.ones(3)}, seed=0)
    with pytest.raises(MalformedMessage, match="NaN or infinite"):
        pipeline.decode({**sent, f"{name}.scales": torch.tensor([scale])}, {"w": (3,)}, seed=0)


@pytest.mark.parametrize(("name", "symbol"), [("int8", -128), ("int4", 8), ("int4", -8)])
def test_a_symbol_outside_the_grid_is_refused(name, symbol):
    pipeline = Pipeline((STAGES[name](settings(), coded=True),))
    sent = {f"{name}.symbols": torch.tensor([0, symbol], dtype=torch.int8), f"{name}.scales": torch.ones(1)}
    with pytest.raises(MalformedMessage, match="outside"):
        pipeline.decode(sent, {"w": (2,)}, seed=0)


@pytest.mark.parametrize(("byte", "why"), [(0x00, "outside"), (0x81, "beyond its last")])
def test_a_packed_byte_that_no_client_makes_is_refused(byte, why):
    sent = {"int4.symbols": torch.tensor([byte], dtype=torch.uint8), "int4.scales": torch.ones(1)}
    with pytest.raises(MalformedMessage, match=why):
        pipeline_of("int4").decode(sent, {"w": (1,)}, seed=0)


def test_the_layout_leaves_out_what_is_no_fp32():
    layout = layout_of({"b": torch.zeros(2, 3), "a": torch.zeros(()), "c": torch.zeros(4, dtype=torch.int8)})
    assert layout.shapes == {"a": (), "b": (2, 3)}
    assert (layout.size, layout.sizes) == (7, [1, 6])
