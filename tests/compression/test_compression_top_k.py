"""Top-k keeps exactly the largest numbers, as they are; a mask that does not say so is refused."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from fedtune.compression.kept import budget
from fedtune.errors import MalformedMessage
from tests.compression.updates import flat, norm, pipeline_of, there_and_back, updates

densities = st.sampled_from([0.05, 0.2, 0.5, 1.0])
BAD = {
    "a mask of two": [2, 1, 0, 0],
    "a mask below zero": [-1, 1, 0, 0],
    "one too many": [1, 1, 1, 0],
    "one too few": [1, 0, 0, 0],
}


@given(updates, densities)
def test_the_largest_come_back_as_they_are_and_all_else_as_zero(tensors, density):
    sent, back = there_and_back(pipeline_of("top-k", density=density), tensors)
    numbers = flat(tensors)
    expected = np.zeros_like(numbers)
    largest = np.argsort(-np.abs(numbers), kind="stable")[: budget(numbers.size, density)]
    expected[largest] = numbers[largest]
    assert np.array_equal(flat(back), expected)
    assert len(sent["top-k.values"]) == len(largest)


@given(updates, densities, st.sampled_from(["global", "tensor"]))
def test_what_is_left_out_is_bounded(tensors, density, threshold):
    """‖x − x̂‖² ≤ (1 − k/d)·‖x‖², of the update or of each tensor: what error feedback needs to converge."""
    _, back = there_and_back(pipeline_of("top-k", density=density, threshold=threshold), tensors)
    for name in tensors if threshold == "tensor" else [None]:
        x, y = (flat(t) if name is None else t[name].double().numpy().reshape(-1) for t in (tensors, back))
        if x.size:
            share = budget(x.size, density) / x.size
            assert ((x - y) ** 2).sum() <= (1 - share) * (x**2).sum() * (1 + 1e-12)


def test_each_tensor_keeps_its_own_share():
    tensors = {"large": torch.arange(100.0, 120.0), "small": torch.arange(1.0, 11.0), "empty": torch.zeros(0)}
    _, back = there_and_back(pipeline_of("top-k", density=0.1, threshold="tensor"), tensors)
    assert back["large"].nonzero().flatten().tolist() == [18, 19]
    assert back["small"].nonzero().flatten().tolist() == [9]


def test_even_zeros_are_sent_in_the_number_that_both_halves_expect():
    sent, back = there_and_back(pipeline_of("top-k", density=0.1), {"w": torch.zeros(40)})
    assert sent["top-k.mask"].nonzero().flatten().tolist() == [0, 1, 2, 3]
    assert norm(back) == 0


@pytest.mark.parametrize("mask", BAD.values(), ids=BAD.keys())
def test_a_mask_that_no_client_makes_is_refused(mask):
    pipeline = pipeline_of("top-k", density=0.5)
    sent = {"top-k.mask": torch.tensor(mask, dtype=torch.int8), "top-k.values": torch.ones(2)}
    with pytest.raises(MalformedMessage, match="top-k"):
        pipeline.decode(sent, {"w": (4,)}, seed=0)


def test_a_mask_that_is_right_in_sum_alone_is_refused():
    pipeline = pipeline_of("top-k", density=0.5, threshold="tensor")
    sent = {"top-k.mask": torch.tensor([1, 1, 0, 0], dtype=torch.int8), "top-k.values": torch.ones(2)}
    with pytest.raises(MalformedMessage, match="as many numbers"):
        pipeline.decode(sent, {"a": (2,), "b": (2,)}, seed=0)


def test_a_value_too_many_is_refused_before_the_mask_is_read():
    pipeline = pipeline_of("top-k", density=0.5)
    sent = {"top-k.mask": torch.tensor([1, 1, 1, 0], dtype=torch.int8), "top-k.values": torch.ones(3)}
    with pytest.raises(MalformedMessage, match=r"'top-k.values' is not what stage"):
        pipeline.decode(sent, {"w": (4,)}, seed=0)
