"""The decomposition through a core is that of the dense product: values, directions, best approximation, signs."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from fedtune.aggregation.cores import directions
from fedtune.aggregation.stack import increment, increment_numbers, stack

sizes = st.integers(1, 20)


def random_factors(out, in_, inner, seed, small=1.0):
    generator = torch.Generator().manual_seed(seed)
    u = torch.randn(out, inner, generator=generator, dtype=torch.float64)
    v = torch.randn(inner, in_, generator=generator, dtype=torch.float64)
    return u * small ** torch.arange(inner), v


@given(sizes, sizes, st.integers(1, 30), st.integers(0, 999), st.sampled_from([1.0, 0.3]))
def test_all_values_are_those_of_the_dense_product(out, in_, inner, seed, small):
    """Also where the stacked rank is more than one side, or both, have."""
    u, v = random_factors(out, in_, inner, seed, small)
    found, dense = directions((u, v)).values, torch.linalg.svdvals(u @ v)
    assert (found.diff() <= 0).all()
    assert len(found) == min(out, in_, inner)
    torch.testing.assert_close(found, dense[: len(found)], rtol=0, atol=1e-12 * float(dense[0]))
    assert (dense[len(found) :] <= 1e-12 * dense[0]).all()


@given(sizes, sizes, st.integers(1, 30), st.integers(1, 20), st.integers(0, 999))
def test_the_leading_directions_are_the_best_approximation(out, in_, inner, count, seed):
    """Eckart and Young: the squared error is the sum of the squared values that were left out."""
    u, v = random_factors(out, in_, inner, seed)
    found = directions((u, v))
    left, right = found.leading(count)
    dense = torch.linalg.svdvals(u @ v)
    assert left.shape[1] == right.shape[0] == min(count, len(found.values))
    error, optimum = float((u @ v - left @ right).norm()), float(dense[count:].norm())
    assert error == pytest.approx(optimum, rel=1e-6, abs=1e-10 * float(dense[0]))


@given(sizes, sizes, st.integers(1, 30), st.integers(0, 999))
def test_the_directions_are_orthonormal_and_the_values_are_on_the_left(out, in_, inner, seed):
    found = directions(random_factors(out, in_, inner, seed))
    left, right = found.leading(inner)
    unit = torch.eye(len(found.values), dtype=torch.float64)
    torch.testing.assert_close(right @ right.T, unit, rtol=0, atol=1e-10)
    size = float(found.values[0] ** 2)
    torch.testing.assert_close(left.T @ left, found.values.square().diag(), rtol=0, atol=1e-10 * size)


@given(st.integers(2, 20), st.integers(2, 20), st.integers(1, 30), st.integers(0, 999))
def test_the_signs_do_not_depend_on_how_the_product_was_split(out, in_, inner, seed):
    """The same product from its dense form, as one factor times the identity, has the same directions."""
    u, v = random_factors(out, in_, inner, seed)
    found, dense = directions((u, v)), directions((u @ v, torch.eye(in_, dtype=torch.float64)))
    (left, right), (dense_left, dense_right) = found.leading(inner), dense.leading(1)
    gap = float(found.values[0] - found.values[1]) if len(found.values) > 1 else float(found.values[0])
    largest = right[0].abs().topk(2).values
    if gap > 1e-3 * float(found.values[0]) and largest[0] - largest[1] > 1e-6:  # else the direction is not unique
        torch.testing.assert_close(dense_right[0], right[0], rtol=0, atol=1e-8)
        torch.testing.assert_close(dense_left[:, 0], left[:, 0], rtol=0, atol=1e-8 * float(found.values[0]))
    assert (right.gather(1, right.abs().argmax(1, keepdim=True)) > 0).all()


@given(st.integers(6, 20), st.integers(6, 20), st.integers(1, 5), st.integers(1, 4), st.integers(0, 999))
def test_the_rank_is_that_of_the_sum_and_not_of_the_stack(out, in_, inner, copies, seed):
    u, v = random_factors(out, in_, inner, seed)
    factors = stack([(u, v)] * copies)
    assert directions(factors).rank() == inner


@pytest.mark.parametrize(
    ("out", "in_", "core"), [(300, 200, (12, 12)), (300, 8, (12, 8)), (8, 200, (8, 12)), (9, 8, (9, 8))]
)
def test_the_core_never_grows_beyond_the_stacked_rank(monkeypatch, out, in_, core):
    seen = []
    real = torch.linalg.svd
    monkeypatch.setattr(
        torch.linalg, "svd", lambda small, **options: seen.append(small.shape) or real(small, **options)
    )
    directions(random_factors(out, in_, 12, 0))
    assert seen == [core]


def test_terms_that_are_zero_are_left_out_of_the_stack():
    u, v = random_factors(5, 4, 2, 0)
    wide, tall = stack([(torch.zeros_like(u), v), (u, v), (u, torch.zeros_like(v))])
    assert torch.equal(wide, u)
    assert torch.equal(tall, v)
    assert stack([(torch.zeros_like(u), v)]) is None


@given(sizes, sizes, st.integers(1, 30), st.integers(0, 999))
def test_an_increment_is_the_product_in_the_smaller_form(out, in_, inner, seed):
    u, v = random_factors(out, in_, inner, seed)
    found = increment("m", (u.T.contiguous().T, v.T.contiguous().T))
    assert all(tensor.is_contiguous() and tensor.dtype == torch.float32 for tensor in found.values())
    assert sum(t.numel() for t in found.values()) == increment_numbers((out, in_), inner) <= out * in_
    product = found["m.D"] if "m.D" in found else found["m.U"].double() @ found["m.V"].double()
    torch.testing.assert_close(product.double(), u @ v, rtol=0, atol=1e-6 * float(u.norm() * v.norm()))
    assert set(increment("m", (u, v), dense=True)) == {"m.D"}
    assert increment("m", None) == {}
