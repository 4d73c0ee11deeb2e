"""FlexLoRA: the new adapter is the truncated SVD of the dense mean product, and no slot of it is dead."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from fedtune.adapters.lora_start import draw_a
from fedtune.adapters.slots import narrow
from fedtune.aggregation.flexlora import SCHEME
from fedtune.aggregation.scheme import Layout
from fedtune.state import parameter_count
from tests.aggregation.worlds_of_factors import (
    SIZES,
    WEIGHTS,
    lora_frame,
    mean_product,
    product,
    random_contributions,
    random_world,
    run_scheme,
    whole_product,
)

clients_of_rank_4 = st.lists(st.tuples(WEIGHTS, st.integers(1, 4)), min_size=1, max_size=6)


def round_of(frame, clients, seed, **options):
    world = random_world(frame, seed, shifted=False)
    weights, ranks = [weight for weight, _ in clients], [rank for _, rank in clients]
    contributions = random_contributions(frame, weights, seed, ranks=ranks, **options)
    after = run_scheme(SCHEME, frame, world, contributions)
    return after, mean_product(frame, world, contributions)


@given(clients_of_rank_4, SIZES, SIZES, st.integers(0, 999))
def test_the_new_product_is_the_truncated_dense_svd(clients, out, in_, seed):
    frame = lora_frame(4, modules={"m": (out, in_)})
    after, expected = round_of(frame, clients, seed)
    whole = expected["m"]
    optimum = float(torch.linalg.svdvals(whole)[4:].norm())
    error = float((whole_product(frame, after)["m"] - whole).norm())
    assert error == pytest.approx(optimum, rel=1e-6, abs=1e-6 * float(whole.norm()))


@given(clients_of_rank_4, st.integers(5, 14), st.integers(5, 14), st.integers(0, 999))
def test_slots_are_in_the_order_of_the_singular_values(clients, out, in_, seed):
    """A client of smaller rank holds the leading slots: the best approximation of its own rank."""
    frame = lora_frame(4, modules={"m": (out, in_)})
    after, expected = round_of(frame, clients, seed)
    values = torch.linalg.svdvals(expected["m"])
    for rank in range(1, 5):
        held = product(frame, narrow(after.state, frame.axes, tuple(range(rank))), "m")
        error = float((held - expected["m"]).norm())
        assert error == pytest.approx(float(values[rank:].norm()), rel=1e-6, abs=1e-6 * float(values[0]))


def test_the_rows_of_a_are_orthonormal_and_b_carries_the_values():
    frame = lora_frame(4, modules={"m": (9, 12)}, scale=1.0)
    after, expected = round_of(frame, [(1.0, 4), (2.0, 4)], 0)
    a, b = after.state["m.lora_A"], after.state["m.lora_B"]
    torch.testing.assert_close(a @ a.T, torch.eye(4), rtol=0, atol=1e-5)
    values = torch.linalg.svdvals(expected["m"])[:4].float()
    torch.testing.assert_close(b.norm(dim=0), values, rtol=1e-5, atol=0)


@pytest.mark.parametrize(("out", "in_", "rank", "directions"), [(3, 9, 4, 3), (9, 2, 4, 2), (9, 9, 1, 1)])
def test_slots_without_a_direction_start_as_lora_starts(out, in_, rank, directions):
    """A = B = 0 would have no gradient ever again; a drawn A with B = 0 has one, and adds nothing."""
    frame = lora_frame(4, modules={"m": (out, in_)})
    world = random_world(frame, 0, shifted=False)
    world = type(world)({**world.state, "m.lora_B": torch.zeros(out, 4)})
    contributions = random_contributions(frame, [1.0, 1.0], 0, ranks=[rank, rank], names=["m.lora_B"])
    after = run_scheme(SCHEME, frame, world, contributions, round_=6)
    a, b = after.state["m.lora_A"], after.state["m.lora_B"]
    fresh = draw_a(4, in_, seed=frame.seed, module="m", round_=6)
    assert not b[:, directions:].any()
    assert torch.equal(a[directions:], fresh[directions:])
    assert not torch.equal(a[:directions], fresh[:directions])
    assert b[:, :directions].any(dim=0).all()


def test_a_round_in_which_nobody_learned_anything_starts_again():
    frame = lora_frame(3, modules={"m": (6, 8)})
    world = random_world(frame, 0, shifted=False)
    world = type(world)({**world.state, "m.lora_B": torch.zeros(6, 3)})
    after = run_scheme(SCHEME, frame, world, random_contributions(frame, [1.0, 2.0], 0, names=["m.lora_A"]))
    assert not after.state["m.lora_B"].any()
    assert after.state["m.lora_A"].any(dim=1).all()


def test_the_base_weights_are_left_alone():
    frame = lora_frame(3)
    world = random_world(frame, 0)
    assert run_scheme(SCHEME, frame, world, random_contributions(frame, [1.0, 2.0], 0)).shift == world.shift


@pytest.mark.parametrize("rank", [1, 2])
def test_the_traffic_formula_counts_what_is_sent(rank):
    modules = {"m": (40, 30), "n": (6, 50)}
    frame = lora_frame(2, modules=modules)
    contribution = random_contributions(frame, [1.0], 0, ranks=[rank])[0]
    after = run_scheme(SCHEME, frame, random_world(frame, 0), [contribution])
    traffic = SCHEME.traffic(Layout("lora", list(modules.values()), 2, rank, [rank], head=18))
    assert traffic.up == parameter_count(contribution.delta.values())
    assert traffic.down == parameter_count(narrow(after.state, frame.axes, contribution.slots).values())
