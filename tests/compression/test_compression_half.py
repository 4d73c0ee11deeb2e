"""Stages are undone in reverse; half precision is within its rounding, never infinite, and refuses foreign dtypes."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from fedtune.compression import STAGES, make_pipeline
from fedtune.errors import MalformedMessage

values = st.lists(st.floats(-1e4, 1e4, width=32), min_size=1, max_size=20)


@pytest.mark.parametrize("name", STAGES)
@given(numbers=values)
def test_half_precision_is_within_its_rounding(name, numbers):
    tensor = torch.tensor(numbers)
    pipeline = make_pipeline((name,))
    sent = pipeline.encode({"w": tensor}, seed=0)
    back = pipeline.decode(sent)["w"]
    finfo = torch.finfo(sent["w"].dtype)
    assert sent["w"].element_size() == 2
    assert back.dtype == torch.float32
    assert bool(((back - tensor).abs() <= tensor.abs() * finfo.eps / 2 + finfo.smallest_normal * finfo.eps).all())


@pytest.mark.parametrize("name", STAGES)
def test_values_beyond_the_range_are_cut_not_made_infinite(name):
    pipeline = make_pipeline((name,))
    back = pipeline.decode(pipeline.encode({"w": torch.tensor([3e38, -3e38])}, seed=0))["w"]
    assert bool(back.isfinite().all())


@pytest.mark.parametrize("name", STAGES)
def test_a_foreign_dtype_is_refused(name):
    with pytest.raises(MalformedMessage, match="float32"):
        make_pipeline((name,)).decode({"w": torch.ones(2)})


def test_an_empty_pipeline_sends_what_it_is_given():
    tensors = {"w": torch.randn(3, 2).T}
    pipeline = make_pipeline(())
    sent = pipeline.encode(tensors, seed=1)
    assert sent["w"].is_contiguous()
    assert torch.equal(pipeline.decode(sent)["w"], tensors["w"])
    assert pipeline.names == ()
