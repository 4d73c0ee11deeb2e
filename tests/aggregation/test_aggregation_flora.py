"""FLoRA: the whole mean product moves into the base weights, and the adapter starts again as LoRA starts."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from fedtune.adapters.lora_start import draw_a
from fedtune.adapters.slots import narrow
from fedtune.aggregation.base import Global
from fedtune.aggregation.flora import SCHEME
from fedtune.aggregation.scheme import Layout
from fedtune.state import parameter_count
from tests.aggregation.worlds_of_factors import (
    WEIGHTS,
    error,
    lora_frame,
    mean_product,
    random_contributions,
    random_world,
    run_scheme,
)


@given(st.lists(st.tuples(WEIGHTS, st.integers(1, 3)), min_size=1, max_size=6), st.integers(0, 999))
def test_the_shift_alone_is_the_mean_product(clients, seed):
    frame = lora_frame(3)
    world = random_world(frame, seed)
    weights, ranks = [weight for weight, _ in clients], [rank for _, rank in clients]
    contributions = random_contributions(frame, weights, seed, ranks=ranks)
    after = run_scheme(SCHEME, frame, world, contributions)
    expected = mean_product(frame, world, contributions)
    for module, shifted in after.shift.dense().items():
        torch.testing.assert_close(shifted, expected[module], rtol=0, atol=1e-6 * float(expected[module].norm()) + 1e-6)
    assert error(frame, world, after, contributions) <= 1e-6


def test_the_adapter_starts_again_as_lora_starts():
    frame = lora_frame(3)
    after = run_scheme(SCHEME, frame, random_world(frame, 0), random_contributions(frame, [1.0], 0), round_=4)
    for module, (_, in_) in frame.modules.items():
        a = after.state[f"{module}.lora_A"]
        assert not after.state[f"{module}.lora_B"].any()
        assert torch.equal(a, draw_a(3, in_, seed=frame.seed, module=module, round_=4))
        assert float(a.abs().max()) <= in_**-0.5


def test_every_round_and_module_has_a_draw_of_its_own():
    draws = [draw_a(3, 8, seed=7, module=module, round_=round_) for module in "ab" for round_ in range(4)]
    assert len({tuple(a.flatten().tolist()) for a in draws}) == 8


def test_rounds_add_up():
    """After three rounds the base weights hold the sum of the three mean products."""
    frame = lora_frame(2)
    world = Global(random_world(frame, 0).state)
    for round_ in (1, 2, 3):
        contributions = random_contributions(frame, [1.0, 3.0], 10 * round_, ranks=[1, 2])
        after = run_scheme(SCHEME, frame, world, contributions, round_)
        assert error(frame, world, after, contributions) <= 1e-6
        world = after


def test_a_client_that_learned_nothing_takes_no_room():
    """B is zero at a round's start: who leaves it there adds nothing to the stack."""
    frame = lora_frame(2)
    start = run_scheme(SCHEME, frame, random_world(frame, 0), random_contributions(frame, [1.0], 0))
    idle = random_contributions(frame, [1.0, 5.0], 1, names=[n for n in frame.shapes if n.endswith("lora_A")])
    assert run_scheme(SCHEME, frame, start, idle, round_=4).shift == start.shift


@pytest.mark.parametrize("ranks", [[2], [1, 2], [2, 1, 1, 2], [2] * 20])
def test_the_traffic_formula_counts_what_is_sent(ranks):
    modules = {"m": (40, 30), "n": (6, 50)}
    frame = lora_frame(2, modules=modules)
    contributions = random_contributions(frame, [1.0] * len(ranks), 0, ranks=ranks)
    after = run_scheme(SCHEME, frame, random_world(frame, 0), contributions)
    for contribution, rank in zip(contributions, ranks, strict=True):
        traffic = SCHEME.traffic(Layout("lora", list(modules.values()), 2, rank, ranks, head=18))
        own = narrow(after.state, frame.axes, contribution.slots)
        assert traffic.up == parameter_count(contribution.delta.values())
        assert traffic.down == parameter_count(own.values()) + parameter_count(after.shift.last.values())
