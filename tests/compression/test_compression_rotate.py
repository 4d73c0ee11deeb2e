"""The rotation is the Hadamard matrix in blocks, orthogonal, of no more numbers than it was given, and undone."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.linalg import block_diag
from scipy.linalg import hadamard as matrix

from fedtune.compression.rotate import LARGEST_BLOCK, hadamard
from tests.compression.updates import flat, norm, normal, pipeline_of, there_and_back, updates


def powers(size):
    """The powers of two that make up a number, largest first."""
    return [1 << bit for bit in reversed(range(size.bit_length())) if size >> bit & 1]


@given(st.integers(1, 300), st.integers(0, 1000))
def test_the_transform_is_the_matrix_in_blocks(size, seed):
    vector = torch.randn(size, generator=torch.Generator().manual_seed(seed))
    whole = block_diag(*(matrix(length) / np.sqrt(length) for length in powers(size)))
    np.testing.assert_allclose(hadamard(vector).numpy(), whole @ vector.double().numpy(), atol=1e-5)


@given(updates, st.integers(0, 1000))
def test_it_is_undone_to_rounding_and_keeps_number_and_norm(tensors, seed):
    sent, back = there_and_back(pipeline_of("rotate"), tensors, seed=seed)
    assert len(sent["rotate.values"]) == flat(tensors).size
    assert norm(sent) == pytest.approx(norm(tensors), rel=1e-5)
    assert np.linalg.norm(flat(back) - flat(tensors)) <= 1e-6 * norm(tensors)


def test_blocks_are_no_larger_than_the_largest():
    size = 2 * LARGEST_BLOCK + 3
    vector = torch.zeros(size)
    vector[[0, LARGEST_BLOCK, size - 1]] = torch.tensor([1.0, 2.0, 3.0])
    made = hadamard(vector)
    assert made[:LARGEST_BLOCK].tolist() == [1 / 256] * LARGEST_BLOCK
    assert made[LARGEST_BLOCK:-3].tolist() == [2 / 256] * LARGEST_BLOCK
    assert made[-3:].tolist() == [0.0, 0.0, 3.0]
    assert torch.equal(hadamard(made), vector)


def test_a_large_number_is_spread_over_all():
    tensors = {"w": torch.zeros(1024)}
    tensors["w"][17] = 32.0
    sent = pipeline_of("rotate").encode(tensors, seed=0)["rotate.values"]
    assert sent.abs().tolist() == [1.0] * 1024


def test_a_coarse_grid_fits_better_after_the_rotation():
    """A few large numbers among small ones: int4 over one block loses less once they are spread."""
    tensors = normal([(4096,)], scale=0.01)
    tensors["layer.0.w0"][::512] = 1.0
    errors = [
        np.linalg.norm(flat(there_and_back(pipeline_of(*stages, block=4096), tensors)[1]) - flat(tensors))
        for stages in (("int4",), ("rotate", "int4"))
    ]
    assert errors[1] < 0.6 * errors[0]


def test_each_seed_turns_another_way():
    tensors = normal([(64,)])
    one, other = (pipeline_of("rotate").encode(tensors, seed=seed)["rotate.values"] for seed in (1, 2))
    assert not torch.allclose(one, other)


def test_nan_and_infinity_are_still_there_afterwards():
    """The server's check of the decoded update sees them."""
    pipeline = pipeline_of("rotate")
    back = pipeline.decode({"rotate.values": torch.tensor([1.0, float("inf")])}, {"w": (2,)}, seed=0)
    assert not back["w"].isfinite().any()
