"""FLoRIST: the fewest singular directions of the mean product that hold the share of its energy."""

import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st

from fedtune.aggregation import flexlora
from fedtune.aggregation.florist import SCHEME, enough
from tests.aggregation.worlds_of_factors import (
    SIZES,
    WEIGHTS,
    lora_frame,
    mean_product,
    random_contributions,
    random_world,
    run_scheme,
    whole_product,
)


def kept_slots(after):
    """How many columns of B are in use."""
    return int(after.state["m.lora_B"].any(dim=0).sum())


@given(
    st.lists(st.tuples(WEIGHTS, st.integers(1, 6)), min_size=1, max_size=5),
    SIZES,
    SIZES,
    st.floats(0.05, 0.995),
    st.integers(0, 999),
)
def test_as_many_directions_are_kept_as_the_dense_svd_needs(clients, out, in_, energy, seed):
    frame = lora_frame(6, modules={"m": (out, in_)})
    world = random_world(frame, seed, shifted=False)
    weights, ranks = [weight for weight, _ in clients], [rank for _, rank in clients]
    contributions = random_contributions(frame, weights, seed, ranks=ranks)
    after = run_scheme(SCHEME, frame, world, contributions, energy=energy)
    whole = mean_product(frame, world, contributions)["m"]
    values = torch.linalg.svdvals(whole)
    shares = values.square().cumsum(0) / values.square().sum()
    assume(bool((shares - energy).abs().min() > 1e-9))
    needed = next(p for p in range(1, len(values) + 1) if shares[p - 1] >= energy)
    assert kept_slots(after) == min(needed, 6)
    error = float((whole_product(frame, after)["m"] - whole).norm())
    assert error == pytest.approx(float(values[min(needed, 6) :].norm()), rel=1e-6, abs=1e-6 * float(whole.norm()))


@given(st.lists(st.floats(1e-3, 1e3), min_size=1, max_size=9), st.floats(0.01, 1.0))
def test_enough_is_the_smallest_number_that_reaches_the_share(values, energy):
    descending = torch.tensor(sorted(values, reverse=True), dtype=torch.float64)
    squares, count = descending.square(), enough(descending, energy)
    assert 1 <= count <= len(values)
    assert float(squares[:count].sum()) >= energy * float(squares.sum()) * (1 - 1e-12)
    assert float(squares[: count - 1].sum()) <= energy * float(squares.sum()) * (1 + 1e-12)


def test_all_energy_is_flexlora():
    frame = lora_frame(4)
    world = random_world(frame, 3)
    contributions = random_contributions(frame, [1.0, 2.0, 3.0], 3, ranks=[1, 4, 2])
    after = run_scheme(SCHEME, frame, world, contributions, energy=1.0)
    assert after.digest() == run_scheme(flexlora.SCHEME, frame, world, contributions).digest()


def test_dropped_slots_start_anew_and_can_learn():
    frame = lora_frame(4)
    after = run_scheme(SCHEME, frame, random_world(frame, 3), random_contributions(frame, [1.0, 2.0], 3), energy=0.3)
    for module in frame.modules:
        dropped = ~after.state[f"{module}.lora_B"].any(dim=0)
        assert dropped.any()
        assert after.state[f"{module}.lora_A"][dropped].any(dim=1).all()
