"""Two thin factors where they are smaller than the matrix: the best of their rank, and the same each time."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from fedtune.errors import AdapterError, MalformedMessage
from tests.compression.updates import pipeline_of, there_and_back

matrices = st.tuples(st.integers(0, 30), st.integers(0, 30), st.integers(1, 6), st.integers(0, 1000))


@given(matrices)
def test_the_product_is_the_best_of_its_rank(drawn):
    rows, columns, rank, seed = drawn
    matrix = torch.randn(rows, columns, generator=torch.Generator().manual_seed(seed))
    sent, back = there_and_back(pipeline_of("low-rank", rank=rank), {"w": matrix})
    if rank * (rows + columns) >= rows * columns:
        assert torch.equal(sent["w"], matrix)
        assert torch.equal(back["w"], matrix)
        return
    assert {name: tuple(t.shape) for name, t in sent.items()} == {"w:left": (rows, rank), "w:right": (rank, columns)}
    values = np.linalg.svd(matrix.double().numpy(), compute_uv=False)
    error = torch.linalg.norm(back["w"].double() - matrix.double()).item()
    assert error == pytest.approx(np.sqrt(np.square(values[rank:]).sum()), rel=1e-5)


def test_a_matrix_of_low_rank_comes_back_to_rounding():
    draw = torch.Generator().manual_seed(1)
    matrix = torch.randn(40, 3, generator=draw) @ torch.randn(3, 50, generator=draw)
    _, back = there_and_back(pipeline_of("low-rank", rank=4), {"w": matrix})
    torch.testing.assert_close(back["w"], matrix, rtol=1e-5, atol=1e-5)


def test_only_matrices_that_shrink_are_taken_apart():
    tensors = {
        "bias": torch.randn(50),
        "square": torch.randn(8, 8),
        "cube": torch.randn(20, 20, 2),
        "s": torch.ones(()),
    }
    sent, back = there_and_back(pipeline_of("low-rank", rank=4), tensors)
    assert sent.keys() == tensors.keys()
    assert all(torch.equal(back[name], tensors[name]) for name in tensors)


def test_the_factors_are_the_same_each_time_and_of_like_size():
    tensors = {"w": torch.randn(20, 30), "zero": torch.zeros(20, 30)}
    pipeline = pipeline_of("low-rank")
    one, other = pipeline.encode(tensors, seed=1), pipeline.encode(tensors, seed=2)
    assert all(torch.equal(one[name], other[name]) for name in one)
    torch.testing.assert_close(one["w:left"].norm(dim=0), one["w:right"].norm(dim=1))
    assert not one["zero:left"].any()


def test_symbols_of_an_earlier_stage_pass_by():
    _, back = there_and_back(pipeline_of("top-k", "low-rank", density=1.0), {"w": torch.ones(20, 20)})
    assert torch.equal(back["w"], torch.ones(20, 20))


def test_a_matrix_of_nan_is_refused_by_the_client():
    with pytest.raises(AdapterError, match="NaN or infinity"):
        pipeline_of("low-rank", rank=1).encode({"w": torch.full((5, 5), float("nan"))}, seed=0)


@pytest.mark.parametrize("shape", [(5, 2), (4, 1), (5,)])
def test_factors_of_another_rank_are_refused(shape):
    sent = {"w:left": torch.ones(shape), "w:right": torch.ones(1, 5)}
    with pytest.raises(MalformedMessage, match="'w:left' is not what stage 'low-rank' makes"):
        pipeline_of("low-rank", rank=1).decode(sent, {"w": (5, 5)}, seed=0)
