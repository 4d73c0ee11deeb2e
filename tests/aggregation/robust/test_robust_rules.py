"""Every rule gives the numbers of an independent NumPy version, to rounding, and refuses what it cannot stand."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from fedtune.aggregation.robust import columns
from fedtune.aggregation.robust.buckets import average_buckets
from fedtune.aggregation.robust.clipping import centred_clipping
from fedtune.aggregation.robust.coordinates import median, trimmed_mean
from fedtune.aggregation.robust.geometric import geometric_median
from fedtune.aggregation.robust.krum import krum, multi_krum
from fedtune.aggregation.robust.mixing import mix_neighbours
from fedtune.errors import RunError
from fedtune.seeds import generator
from tests.aggregation.robust import oracles

SEEDS = st.integers(0, 10_000)


def rows_of(seed, rows, columns_, scale=1.0):
    draw = generator(seed, "rows")
    return torch.randn(rows, columns_, generator=draw, dtype=torch.float64) * scale


def close(found, expected, *, scale=1.0, tolerance=1e-12):
    np.testing.assert_allclose(found.numpy(), expected, rtol=tolerance, atol=tolerance * scale)


@given(SEEDS, st.integers(1, 15), st.integers(1, 8), st.sampled_from([1e-6, 1.0, 1e6]))
def test_the_median_is_numpys(seed, rows, width, scale):
    matrix = rows_of(seed, rows, width, scale)
    close(median(matrix), np.median(matrix.numpy(), axis=0), scale=scale)


@given(SEEDS, st.integers(1, 15), st.integers(1, 8), st.data())
def test_the_trimmed_mean_leaves_out_f_at_each_end(seed, rows, width, data):
    f = data.draw(st.integers(0, (rows - 1) // 2))
    matrix = rows_of(seed, rows, width)
    close(trimmed_mean(matrix, f), oracles.trimmed_mean(matrix.numpy(), f))


@given(SEEDS, st.integers(4, 12), st.integers(1, 8), st.data())
def test_krum_and_multi_krum_choose_as_the_paper_says(seed, rows, width, data):
    f = data.draw(st.integers(0, (rows - 3) // 2))
    matrix = rows_of(seed, rows, width)
    close(krum(matrix, f), oracles.krum(matrix.numpy(), f))
    close(multi_krum(matrix, f), oracles.multi_krum(matrix.numpy(), f))


@given(SEEDS, st.integers(1, 12), st.integers(1, 8), st.sampled_from([0.0, 0.5, 100.0]), st.integers(1, 5))
def test_centred_clipping_steps_from_its_centre(seed, rows, width, radius, steps):
    matrix, centre = rows_of(seed, rows, width), rows_of(seed + 1, 1, width)[0]
    expected = oracles.centred_clipping(matrix.numpy(), centre.numpy(), radius, steps)
    close(centred_clipping(matrix, centre, radius=radius, steps=steps), expected, tolerance=1e-9)


@given(SEEDS, st.integers(1, 12), st.integers(1, 8), st.data())
def test_mixing_takes_the_mean_of_the_nearest(seed, rows, width, data):
    f = data.draw(st.integers(0, (rows - 1) // 2))
    matrix = rows_of(seed, rows, width)
    close(mix_neighbours(matrix, f), oracles.mix_neighbours(matrix.numpy(), f))


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("scale", [1e-4, 1.0])
def test_the_geometric_median_is_the_minimum(seed, scale):
    matrix = rows_of(seed, 5 + seed, 2, scale)
    found, best = geometric_median(matrix).numpy(), oracles.geometric_median(matrix.numpy())
    np.testing.assert_allclose(found, best, atol=1e-5 * scale)
    least = oracles.sum_of_distances(best, matrix.numpy())
    assert oracles.sum_of_distances(found, matrix.numpy()) <= least * (1 + 1e-7)


@given(SEEDS, st.integers(3, 15), st.integers(2, 40))
def test_at_the_geometric_median_the_unit_pulls_cancel(seed, rows, width):
    """The condition for a minimum between the rows; at a row the others pull with less than one."""
    matrix = rows_of(seed, rows, width)
    apart = matrix - geometric_median(matrix)
    lengths = apart.norm(dim=1, keepdim=True)
    far = lengths[:, 0] > 1e-3
    assert (apart[far] / lengths[far]).sum(dim=0).norm() <= 1e-5 + (~far).sum()


def test_the_geometric_median_of_two_is_between_them_and_of_a_majority_its_point():
    assert geometric_median(torch.tensor([[0.0, 2.0], [2.0, 0.0]])).tolist() == [1.0, 1.0]
    assert geometric_median(torch.tensor([[5.0], [1.0], [1.0], [1.0], [-9.0]])).tolist() == [1.0]


@given(SEEDS, st.integers(1, 13), st.integers(1, 5))
def test_every_row_goes_into_exactly_one_bucket(seed, rows, size):
    averaged = average_buckets(torch.eye(rows, dtype=torch.float64), size, generator(seed, "buckets"))
    assert len(averaged) == -(-rows // size)
    members = averaged > 0
    assert members.sum(dim=0).tolist() == [1] * rows
    assert members.sum(dim=1).tolist() == [size] * (rows // size) + [rows % size] * (rows % size > 0)
    np.testing.assert_allclose(averaged.sum(dim=1), 1.0)


def test_buckets_differ_from_round_to_round():
    matrix = torch.eye(20)
    first, again, second = (average_buckets(matrix, 2, generator(1, "buckets", round_=r)) for r in (1, 1, 2))
    assert torch.equal(first, again)
    assert not torch.equal(first, second)


def test_wide_matrices_are_worked_on_in_blocks_with_the_same_result(monkeypatch):
    matrix, centre = rows_of(1, 9, 50).float(), torch.ones(50)

    def everything():
        mixed = mix_neighbours(matrix, 2)
        clipped = centred_clipping(matrix, centre, radius=0.0, steps=3)
        return torch.stack([median(matrix), multi_krum(mixed, 2), geometric_median(matrix), clipped])

    whole = everything()
    monkeypatch.setattr(columns, "COLUMNS", 7)
    assert list(columns.blocks(15)) == [slice(0, 7), slice(7, 14), slice(14, 15)]
    close(everything(), whole.numpy(), tolerance=1e-6)


def test_distances_do_not_cancel_beside_a_huge_row():
    """What ‖x‖² + ‖y‖² − 2x·y loses: two rows 1e-3 apart, 1e8 from zero."""
    matrix = torch.tensor([[1e8, 0.0], [1e8, 1e-3]], dtype=torch.float64)
    assert columns.squared_distances(matrix)[0, 1].item() == pytest.approx(1e-6, rel=1e-9)
    squares = matrix.square().sum(dim=1)
    assert (squares[0] + squares[1] - 2 * matrix[0] @ matrix[1]).item() != pytest.approx(1e-6, rel=0.5)


def test_too_few_rows_for_a_rule_are_refused_with_the_ways_out():
    with pytest.raises(RunError, match=r"Krum stands 2 .* among 7 or more, and there were 6: lower aggregation\.att"):
        krum(torch.zeros(6, 1), 2)
    with pytest.raises(RunError, match=r"federation\.min_replies"):
        multi_krum(torch.zeros(2, 1), 0)
    with pytest.raises(RunError, match="more than 4 updates, and 4 came"):
        trimmed_mean(torch.zeros(4, 1), 2)
