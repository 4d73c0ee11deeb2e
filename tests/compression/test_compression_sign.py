"""One bit a number, and the magnitude that leaves the least error in each tensor."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given

from fedtune.errors import MalformedMessage
from tests.compression.updates import flat, normal, pipeline_of, there_and_back, updates


@given(updates)
def test_signs_come_back_with_the_best_magnitude(tensors):
    _, back = there_and_back(pipeline_of("sign"), tensors)
    for name, tensor in tensors.items():
        x = tensor.double().numpy().reshape(-1)
        signs = np.where(x >= 0, 1.0, -1.0)
        best = np.linalg.lstsq(signs[:, None], x, rcond=None)[0].item() if x.size else 0.0
        np.testing.assert_allclose(back[name].double().numpy().reshape(-1), best * signs, rtol=1e-6)


@given(updates)
def test_a_number_takes_one_bit_and_a_tensor_four_bytes(tensors):
    sent = pipeline_of("sign").encode(tensors, seed=0)
    assert sum(t.nbytes for t in sent.values()) == math.ceil(flat(tensors).size / 8) + 4 * len(tensors)


def test_the_update_after_a_rotation_has_one_scale():
    sent, back = there_and_back(pipeline_of("rotate", "sign"), normal([(30,), (4, 5)]))
    assert len(sent["sign.scale"]) == 1
    assert {tuple(t.shape) for t in back.values()} == {(30,), (4, 5)}


@pytest.mark.parametrize("scale", [math.nan, math.inf, -math.inf])
def test_a_scale_that_is_no_number_is_refused(scale):
    sent = {"sign.bits": torch.zeros(1, dtype=torch.uint8), "sign.scale": torch.tensor([scale])}
    with pytest.raises(MalformedMessage, match="'sign' that is NaN or infinite"):
        pipeline_of("sign").decode(sent, {"w": (3,)}, seed=0)


@pytest.mark.parametrize("bits", range(1, 32))
def test_signs_beyond_the_last_number_are_refused(bits):
    sent = {"sign.bits": torch.tensor([bits], dtype=torch.uint8), "sign.scale": torch.ones(1)}
    with pytest.raises(MalformedMessage, match="beyond its last number"):
        pipeline_of("sign").decode(sent, {"w": (3,)}, seed=0)
