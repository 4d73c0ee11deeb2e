"""FedEx-LoRA: the factors are FedIT's, the residual is what they miss, and there is none where nothing is missed."""

from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from fedtune.adapters.shift import modules_of
from fedtune.aggregation.fedex import SCHEME, FedEx
from fedtune.aggregation.make import make_aggregator
from fedtune.aggregation.mean import Mean
from fedtune.aggregation.scheme import Layout
from fedtune.recipe.aggregation import AggregationSection
from fedtune.state import parameter_count
from tests.aggregation.worlds_of_factors import (
    SIZES,
    WEIGHTS,
    error,
    lora_frame,
    mean_product,
    product,
    random_contributions,
    random_world,
    run,
    run_scheme,
    whole_product,
)


@given(st.lists(st.integers(1, 5000), min_size=1, max_size=6), st.integers(0, 999), st.sampled_from([1e-4, 1.0, 100.0]))
def test_the_adapter_goes_on_as_fedit_would(weights, seed, size):
    frame = lora_frame(3)
    world = random_world(frame, seed)
    contributions = random_contributions(frame, weights, seed, size=size)
    after, fedit = run_scheme(SCHEME, frame, world, contributions), run(Mean(frame), world, contributions)
    for name in frame.shapes:
        torch.testing.assert_close(after.state[name], fedit.state[name], rtol=1e-6, atol=1e-7 * size)


@pytest.mark.parametrize("residual", ["factored", "dense"])
@given(st.lists(WEIGHTS, min_size=1, max_size=6), st.integers(1, 5), SIZES, SIZES, st.integers(0, 999))
def test_factored_and_dense_residuals_are_exact(residual, weights, rank, out, in_, seed):
    frame = lora_frame(rank, modules={"m": (out, in_)})
    world = random_world(frame, seed)
    contributions = random_contributions(frame, weights, seed)
    after = run_scheme(SCHEME, frame, world, contributions, residual=residual)
    assert error(frame, world, after, contributions) <= 1e-6


@pytest.mark.parametrize("outlier", range(4))
def test_one_client_of_huge_factors_and_little_weight_costs_no_digits(outlier):
    frame = lora_frame(2, modules={"m": (40, 30)})
    world = random_world(frame, 1)
    weights = [1e5, 2e5, 5e4, 1.5e5]
    weights[outlier] = 1.0
    contributions = random_contributions(frame, weights, 1)
    delta = contributions[outlier].delta
    huge = {**delta, "m.lora_B": 1e5 * delta["m.lora_B"]}
    contributions[outlier] = replace(contributions[outlier], delta=huge)
    after = run_scheme(SCHEME, frame, world, contributions)
    assert after.shift.tensors["m.U"].shape == (40, 2 + 3 * 2)
    assert error(frame, world, after, contributions) <= 1e-6


@given(st.lists(st.integers(1, 10**6).map(float), min_size=1, max_size=5), st.integers(0, 999))
def test_clients_that_came_to_the_same_leave_no_residual(weights, seed):
    """Not a small one: none, and so the clients' base weights need not change."""
    frame = lora_frame(3)
    world = random_world(frame, seed)
    delta = random_contributions(frame, [1.0], seed)[0].delta
    contributions = [replace(c, delta=delta) for c in random_contributions(frame, weights, seed)]
    assert run_scheme(SCHEME, frame, world, contributions).shift == world.shift


@pytest.mark.parametrize("side", ["lora_A", "lora_B"])
@given(st.lists(st.integers(1, 10**6).map(float), min_size=2, max_size=5), st.integers(0, 999))
def test_clients_that_agree_on_one_factor_leave_no_residual(side, weights, seed):
    frame = lora_frame(3)
    world = random_world(frame, seed)
    names = [name for name in frame.shapes if not name.endswith(side)]
    contributions = random_contributions(frame, weights, seed, names=names)
    after = run_scheme(SCHEME, frame, world, contributions)
    assert after.shift == world.shift
    assert error(frame, world, after, contributions) <= 1e-6


def test_clients_that_differ_in_one_module_shift_that_one_alone():
    frame = lora_frame(2)
    world = random_world(frame, 0, shifted=False)
    names = [name for name in frame.shapes if name.startswith("blocks.0.q")]
    after = run_scheme(SCHEME, frame, world, random_contributions(frame, [1.0, 1.0], 0, names=names))
    assert modules_of(after.shift.tensors) == ("blocks.0.q",)


@given(st.lists(WEIGHTS, min_size=2, max_size=6), st.integers(1, 3), st.integers(0, 999))
def test_a_truncated_residual_is_the_best_of_its_rank(weights, rank, seed):
    frame = lora_frame(2, modules={"m": (40, 30)})
    world = random_world(frame, seed, shifted=False)
    contributions = random_contributions(frame, weights, seed)
    after = run_scheme(SCHEME, frame, world, contributions, residual="truncated", residual_rank=rank)
    whole = mean_product(frame, world, contributions)["m"]
    left_out = torch.linalg.svdvals(whole - product(frame, after.state, "m"))[rank:]
    error = float((whole_product(frame, after)["m"] - whole).norm())
    assert error == pytest.approx(float(left_out.norm()), rel=1e-4, abs=1e-6 * float(whole.norm()))


def test_a_truncated_residual_has_the_adapters_rank_unless_told_otherwise_and_is_not_called_exact():
    frame = lora_frame(2, modules={"m": (40, 30)})
    section = AggregationSection(scheme="fedex", residual="truncated")
    aggregator = make_aggregator(section, frame)
    world = random_world(frame, 0, shifted=False)
    contributions = random_contributions(frame, [1.0, 2.0, 3.0], 0)
    after = run(aggregator, world, contributions)
    assert after.shift.tensors["m.U"].shape == (40, 2)
    assert aggregator.exact_for == frozenset()
    assert error(frame, world, after, contributions) > 1e-3
    assert FedEx.exact_for == {"lora"}


@pytest.mark.parametrize(("residual", "rank"), [("factored", 0), ("dense", 0), ("truncated", 0), ("truncated", 3)])
@pytest.mark.parametrize("clients", [1, 2, 4, 9])
def test_the_traffic_formula_counts_what_is_sent(residual, rank, clients):
    modules = {"m": (40, 30), "n": (6, 50)}
    frame = lora_frame(2, modules=modules)
    contributions = random_contributions(frame, [1.0] * clients, 0)
    world = random_world(frame, 0)
    after = run_scheme(SCHEME, frame, world, contributions, residual=residual, residual_rank=rank)
    traffic = SCHEME.traffic(
        Layout("lora", list(modules.values()), 2, 2, [2] * clients, head=18, residual=residual, residual_rank=rank)
    )
    increment = after.shift.last if after.shift.key != world.shift.key else {}
    assert traffic.up == parameter_count(contributions[0].delta.values())
    sent = parameter_count(after.state.values()) + parameter_count(increment.values())
    if residual == "dense" and clients == 1:
        assert sent < traffic.down  # a client alone leaves no residual, dense or not
    else:
        assert sent == traffic.down
