"""Half precision is within its rounding, never infinite, leaves symbols alone, and refuses foreign dtypes."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from fedtune.errors import MalformedMessage
from tests.compression.updates import pipeline_of, there_and_back

values = st.lists(st.floats(-1e4, 1e4, width=32), min_size=1, max_size=20)
HALVES = ["fp16", "bf16"]


@pytest.mark.parametrize("name", HALVES)
@given(numbers=values)
def test_half_precision_is_within_its_rounding(name, numbers):
    tensor = torch.tensor(numbers)
    sent, back = there_and_back(pipeline_of(name), {"w": tensor})
    finfo = torch.finfo(sent["w"].dtype)
    assert sent["w"].element_size() == 2
    assert back["w"].dtype == torch.float32
    bound = tensor.abs() * finfo.eps / 2 + finfo.smallest_normal * finfo.eps
    assert bool(((back["w"] - tensor).abs() <= bound).all())


@pytest.mark.parametrize("name", HALVES)
def test_values_beyond_the_range_are_cut_not_made_infinite(name):
    back = there_and_back(pipeline_of(name), {"w": torch.tensor([3e38, -3e38])})[1]["w"]
    assert bool(back.isfinite().all())


@pytest.mark.parametrize("name", HALVES)
def test_what_is_no_fp32_is_left_alone(name):
    tensors = {"w": torch.ones(8), "v": torch.randn(3)}
    sent, _ = there_and_back(pipeline_of("sign", name), tensors)
    assert sent["sign.bits"].dtype == torch.uint8
    assert sent["sign.scale"].element_size() == 2


@pytest.mark.parametrize("name", HALVES)
def test_a_foreign_dtype_is_refused(name):
    with pytest.raises(MalformedMessage, match=f"not what stage '{name}' makes"):
        pipeline_of(name).decode({"w": torch.ones(2)}, {"w": (2,)}, seed=0)


def test_an_empty_pipeline_sends_what_it_is_given():
    tensors = {"w": torch.randn(3, 2).T}
    sent, back = there_and_back(pipeline_of(), tensors, seed=1)
    assert sent["w"].is_contiguous()
    assert torch.equal(back["w"], tensors["w"])
    assert pipeline_of().names == ()
