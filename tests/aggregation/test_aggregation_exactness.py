"""Every scheme's `exact_for` says the truth about LoRA: exact where it is claimed, and not where it is not.

The oracle forms every client's product densely in float64 and averages: Σ pₖ·(shift + s·Bₖ·Aₖ).
"""

from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fedtune.aggregation.base import Contribution, Frame, Global
from fedtune.aggregation.schemes import SCHEMES
from fedtune.recipe.aggregation import AggregationSection
from tests.aggregation.worlds_of_factors import (
    SIZES,
    WEIGHTS,
    error,
    lora_frame,
    random_contributions,
    random_world,
    run_scheme,
)

OF_LORA = sorted(
    name for name, scheme in SCHEMES.items() if "lora" in scheme.forms and not scheme.keeps(("m.lora_A", "m.lora_B"))
)
"""Schemes with one global LoRA model."""
EXACT = [name for name in OF_LORA if "lora" in SCHEMES[name].aggregator.exact_for]
INEXACT = [name for name in OF_LORA if name not in EXACT]
HETEROGENEOUS = [name for name in EXACT if "lora" in SCHEMES[name].aggregator.heterogeneous_for]


def trained_names(name: str, frame: Frame, round_: int) -> tuple[str, ...]:
    return SCHEMES[name].trains(tuple(frame.shapes), round_)


def sent(name: str, frame: Frame, world: Global, trained: Contribution) -> Contribution:
    """What is left after the client's last step, which may turn its factors."""
    state = {n: world.state[n] + delta for n, delta in trained.delta.items()}
    state = SCHEMES[name].finish_client(world.state, state, frame, AggregationSection())
    return replace(trained, delta={n: tensor - world.state[n] for n, tensor in state.items()})


def error_of_a_round(name: str, frame: Frame, weights: list[float], seed: int, round_: int) -> float:
    world = random_world(frame, seed)
    trained = random_contributions(frame, weights, seed, names=trained_names(name, frame, round_))
    after = run_scheme(SCHEMES[name], frame, world, [sent(name, frame, world, c) for c in trained], round_)
    return error(frame, world, after, trained)


def test_the_claims_are_there_to_be_tested():
    assert {"fedex", "flora"} <= set(EXACT)
    assert {"mean", "flexlora", "florist"} <= set(INEXACT)
    assert "flora" in HETEROGENEOUS


@pytest.mark.parametrize("name", EXACT)
@settings(max_examples=50)
@given(
    st.lists(WEIGHTS, min_size=1, max_size=6), st.integers(1, 5), SIZES, SIZES, st.integers(1, 4), st.integers(0, 999)
)
def test_what_claims_to_be_exact_is_the_mean_of_the_products(name, weights, rank, out, in_, round_, seed):
    frame = lora_frame(rank, modules={"m": (out, in_)}, scale=1.5)
    assert error_of_a_round(name, frame, weights, seed, round_) <= 1e-6


@pytest.mark.parametrize("name", HETEROGENEOUS)
@given(st.lists(st.tuples(WEIGHTS, st.integers(1, 4)), min_size=1, max_size=6), SIZES, SIZES, st.integers(0, 999))
def test_so_it_is_for_clients_of_different_ranks(name, clients, out, in_, seed):
    frame = lora_frame(4, modules={"m": (out, in_)})
    world = random_world(frame, seed)
    weights, ranks = [weight for weight, _ in clients], [rank for _, rank in clients]
    names = trained_names(name, frame, 1)
    contributions = random_contributions(frame, weights, seed, ranks=ranks, names=names)
    after = run_scheme(SCHEMES[name], frame, world, contributions, 1)
    assert error(frame, world, after, contributions) <= 1e-6


@pytest.mark.parametrize("name", INEXACT)
@pytest.mark.parametrize("round_", [1, 2])
def test_what_does_not_claim_to_be_exact_is_not(name, round_):
    """Three clients of rank 3 have a sum of rank 9, more than the adapter holds."""
    assert error_of_a_round(name, lora_frame(3), [3.0, 1.0, 2.0], 5, round_) > 1e-3


@pytest.mark.parametrize("name", OF_LORA)
@given(st.randoms(use_true_random=False), st.integers(0, 99))
@settings(max_examples=10)
def test_the_order_of_arrival_changes_no_bit(name, random, seed):
    frame = lora_frame(3)
    world = random_world(frame, seed)
    weights = [float(3**i) for i in range(5)]
    contributions = random_contributions(frame, weights, seed, names=trained_names(name, frame, 1))
    before = run_scheme(SCHEMES[name], frame, world, contributions, 1)
    random.shuffle(contributions)
    assert run_scheme(SCHEMES[name], frame, world, contributions, 1).digest() == before.digest()


@pytest.mark.parametrize("name", OF_LORA)
def test_the_task_head_is_averaged_by_weight(name):
    frame = lora_frame(3)
    world = random_world(frame, 1)
    contributions = random_contributions(frame, [3.0, 1.0], 1, names=trained_names(name, frame, 1))
    after = run_scheme(SCHEMES[name], frame, world, contributions, 1)
    for head in ("head.weight", "head.bias"):
        first, second = (c.delta[head].double() for c in contributions)
        expected = world.state[head].double() + 0.75 * first + 0.25 * second
        torch.testing.assert_close(after.state[head].double(), expected, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("name", OF_LORA)
def test_a_round_writes_to_nothing_that_it_was_given(name):
    frame = lora_frame(3)
    world = random_world(frame, 2)
    before = world.digest()
    contributions = random_contributions(frame, [1.0, 2.0], 2, names=trained_names(name, frame, 1))
    deltas = [{n: t.clone() for n, t in c.delta.items()} for c in contributions]
    after = run_scheme(SCHEMES[name], frame, world, contributions, 1)
    assert world.digest() == before
    assert all(torch.equal(c.delta[n], d[n]) for c, d in zip(contributions, deltas, strict=True) for n in d)
    assert {n: tuple(t.shape) for n, t in after.state.items()} == dict(frame.shapes)
    assert all(t.dtype == torch.float32 and t.is_contiguous() for t in after.state.values())
