"""FedSVD keeps the mean product and starts every round from an A with orthonormal rows, none of them dead."""

from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from fedtune.aggregation.fedsvd import SCHEME, FedSvd, orthonormal, trains_b
from fedtune.aggregation.mean import mean_state
from fedtune.aggregation.scheme import LORA, Layout, Traffic
from fedtune.errors import RunError
from tests.aggregation.random_rounds import lora_rounds, same_bits, with_zero_b
from tests.aggregation.worlds_of_factors import error, lora_frame, random_world, run_scheme

SHAPES = st.tuples(st.integers(1, 9), st.integers(1, 9), st.integers(1, 6))
"""(out, in, rank)."""


def only_b(names):
    return trains_b(names, 1)


def factors(shape, seed):
    """A (rank, in) and B (out, rank)."""
    out, in_, rank = shape
    generator = torch.Generator().manual_seed(seed)
    a = torch.randn(rank, in_, generator=generator, dtype=torch.float64)
    return a, torch.randn(out, rank, generator=generator, dtype=torch.float64)


@given(lora_rounds(only_b))
def test_the_new_product_is_the_mean_of_the_clients_products(case):
    after = run_scheme(SCHEME, case.frame, case.world, case.contributions)
    assert error(case.frame, case.world, after, case.contributions) <= 1e-6
    assert "lora" in FedSvd.exact_for


@given(lora_rounds(only_b))
def test_every_round_starts_from_orthonormal_rows_of_a(case):
    after = run_scheme(SCHEME, case.frame, case.world, case.contributions)
    for module, (_, in_) in case.frame.modules.items():
        a = after.state[f"{module}.lora_A"].double()[:in_]
        torch.testing.assert_close(a @ a.T, torch.eye(len(a), dtype=torch.float64), rtol=0, atol=1e-6)


@given(SHAPES, st.integers(0, 1000), st.integers(0, 6))
def test_the_new_factors_are_those_of_the_singular_value_decomposition(shape, seed, zeros):
    """Of the dense product: B's columns have its singular values as norms, whatever the rank that B is of."""
    a, b = factors(shape, seed)
    b[:, :zeros] = 0.0
    new_a, new_b = orthonormal(a, b)
    torch.testing.assert_close(new_b @ new_a, b @ a, rtol=0, atol=1e-12 * (1 + float((b @ a).norm())))
    values = torch.linalg.svdvals(b @ a)
    lengths = new_b.norm(dim=0)
    count = min(len(values), len(lengths))
    torch.testing.assert_close(lengths[:count], values[:count], rtol=1e-9, atol=1e-12)
    assert float(lengths[count:].sum()) == 0.0
    columns = new_b.T @ new_b
    torch.testing.assert_close(columns, torch.diag(columns.diagonal()), rtol=0, atol=1e-10)


@given(SHAPES, st.integers(0, 1000), st.integers(0, 6))
def test_no_slot_dies_the_rows_of_a_keep_their_span(shape, seed, zeros):
    """Also where B is zero in some directions or in all: those rows of A are where it can grow next."""
    a, b = factors(shape, seed)
    b[:, :zeros] = 0.0
    new_a, _ = orthonormal(a, b)
    rows = min(shape[1], shape[2])
    torch.testing.assert_close(new_a[:rows] @ new_a[:rows].T, torch.eye(rows, dtype=torch.float64), rtol=0, atol=1e-12)
    inside = a @ new_a.T @ new_a
    torch.testing.assert_close(inside, a, rtol=0, atol=1e-10)
    assert float(new_a[rows:].abs().sum()) == 0.0


@given(lora_rounds(only_b))
def test_a_round_in_which_nobody_moved_b_from_zero_leaves_it_zero(case):
    still = [replace(c, delta={n: t * 0 for n, t in c.delta.items()}) for c in case.contributions]
    after = run_scheme(SCHEME, case.frame, with_zero_b(case.world), still)
    for module in case.frame.modules:
        assert float(after.state[f"{module}.lora_B"].abs().sum()) == 0.0
        assert bool(after.state[f"{module}.lora_A"].isfinite().all())


@given(SHAPES, st.integers(0, 1000), st.lists(st.sampled_from([-1.0, 1.0]), min_size=6, max_size=6))
def test_the_signs_of_the_slots_do_not_matter(shape, seed, signs):
    """A slot's A and B may both change sign; the new factors are the same, the largest entry of a row positive."""
    a, b = factors(shape, seed)
    flip = torch.tensor(signs, dtype=torch.float64)[: shape[2]]
    new_a, new_b = orthonormal(a, b)
    assert torch.equal(new_a.abs().amax(dim=1), new_a.amax(dim=1))
    again_a, again_b = orthonormal(a * flip[:, None], b * flip)
    count = min(shape)  # beyond it B is zero, and any basis of what is left of A's rows will do
    torch.testing.assert_close(again_a[:count], new_a[:count], rtol=0, atol=1e-6)
    torch.testing.assert_close(again_b[:, :count], new_b[:, :count], rtol=0, atol=1e-6)


@given(lora_rounds(only_b), st.randoms(use_true_random=False))
def test_the_order_of_arrival_changes_no_bit(case, random):
    before = run_scheme(SCHEME, case.frame, case.world, case.contributions)
    after = run_scheme(SCHEME, case.frame, case.world, random.sample(case.contributions, len(case.contributions)))
    assert same_bits(before.state, after.state)


@given(lora_rounds(only_b))
def test_the_head_is_the_weighted_mean_and_the_shift_stays(case):
    after = run_scheme(SCHEME, case.frame, case.world, case.contributions)
    expected = mean_state(case.world, case.contributions, case.frame)
    assert all(torch.equal(after.state[name], expected[name]) for name in ("head.weight", "head.bias"))
    assert after.shift is case.world.shift


def test_a_round_without_updates_is_refused():
    with pytest.raises(RunError, match="wait for at least one client"):
        run_scheme(SCHEME, lora_frame(2), random_world(lora_frame(2), 1), [])


def test_what_the_scheme_says_of_itself():
    names = ("head.bias", "m.lora_A", "m.lora_B")
    assert SCHEME.trains(names, 1) == SCHEME.trains(names, 2) == ("head.bias", "m.lora_B")
    assert SCHEME.keeps(names) == ()
    assert SCHEME.forms == LORA
    assert SCHEME.aggregator is FedSvd
    assert (FedSvd.exact_for, FedSvd.heterogeneous_for, FedSvd.linear) == (LORA, frozenset(), True)
    layout = Layout("lora", [(10, 6), (4, 4)], rank=2, own_rank=2, ranks=[2, 2], head=7)
    assert SCHEME.traffic(layout) == Traffic(up=2 * 14 + 7, down=2 * 24 + 7)
