"""FedRot-LoRA's turning changes no client's product, and what turned copies lose to each other is won back."""

import math
from dataclasses import replace

import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st

from fedtune.aggregation.base import Contribution
from fedtune.aggregation.fedrot import SCHEME, rotation, turn
from fedtune.aggregation.mean import Mean
from fedtune.aggregation.scheme import LORA, Layout, Traffic
from fedtune.recipe.aggregation import AggregationSection
from fedtune.state import add, subtract
from tests.aggregation.random_rounds import lora_rounds, same_bits, with_zero_b
from tests.aggregation.worlds_of_factors import draw, error, lora_frame, product, random_world, run

ALIGNMENTS = st.sampled_from([0.1, 0.4, 0.5, 0.6, 0.9, 1.0])


def section(alignment):
    return AggregationSection(scheme="fedrot", alignment=alignment)


def orthogonal(size, generator):
    """Any orthogonal matrix, reflections too."""
    q, r = torch.linalg.qr(torch.randn(size, size, generator=generator, dtype=torch.float64))
    return q * r.diagonal().sign()


def finished(frame, world, trained, alignment):
    """What a client sends of its trained state."""
    return subtract(SCHEME.finish_client(world.state, trained, frame, section(alignment)), world.state)


@given(lora_rounds(), ALIGNMENTS)
def test_turning_changes_no_product(case, alignment):
    for contribution in case.contributions:
        trained = add(case.world.state, contribution.delta)
        turned = turn(case.world.state, trained, case.frame, section(alignment))
        assert turned.keys() == trained.keys()
        assert all(torch.equal(turned[name], trained[name]) for name in ("head.weight", "head.bias"))
        for module in case.frame.modules:
            a, b = (trained[f"{module}.{side}"].double() for side in ("lora_A", "lora_B"))
            change = product(case.frame, turned, module) - product(case.frame, trained, module)
            assert float(change.norm()) <= 1e-6 * case.frame.scale * float(a.norm() * b.norm())


@given(st.integers(1, 8), st.integers(0, 1000), ALIGNMENTS, st.integers(0, 8))
def test_every_turn_is_orthogonal_and_one_that_is_not_whole_is_a_rotation(rank, seed, alignment, deficiency):
    """Also where the factors say nothing about some directions, or about any."""
    generator = torch.Generator().manual_seed(seed)
    correlation = torch.randn(rank, rank, generator=generator, dtype=torch.float64)
    correlation[:, : min(deficiency, rank)] = 0.0
    q = rotation(correlation, alignment)
    torch.testing.assert_close(q.T @ q, torch.eye(rank, dtype=torch.float64), rtol=0, atol=1e-12)
    if alignment != 1.0:
        assert float(torch.linalg.det(q)) == pytest.approx(1.0)


@given(lora_rounds(), st.integers(0, 1000))
def test_no_other_turn_brings_the_factors_closer_to_the_global_ones(case, seed):
    generator = torch.Generator().manual_seed(seed)
    trained = add(case.world.state, case.contributions[0].delta)
    turned = turn(case.world.state, trained, case.frame, section(1.0))
    for module in case.frame.modules:
        names = f"{module}.lora_A", f"{module}.lora_B"
        a, b = (trained[name].double() for name in names)
        a0, b0 = (case.world.state[name].double() for name in names)
        found = float((turned[names[0]] - a0).square().sum() + (turned[names[1]] - b0).square().sum())
        for _ in range(5):
            q = orthogonal(case.frame.slots, generator)
            assert found <= float((q.T @ a - a0).square().sum() + (b @ q - b0).square().sum()) * (1 + 1e-5)


@given(st.floats(-3.0, 3.0), st.floats(0.01, 0.99))
def test_a_turn_in_the_plane_goes_part_of_the_way(angle, alignment):
    """The polar factor of (1−λ)·I + λ·R(θ) turns by atan2(λ·sin θ, 1 − λ + λ·cos θ)."""
    whole = torch.tensor([[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]]).double()
    q = rotation(whole * 3.0, alignment)
    expected = math.atan2(alignment * math.sin(angle), 1 - alignment + alignment * math.cos(angle))
    assert math.atan2(float(q[1, 0]), float(q[0, 0])) == pytest.approx(expected, abs=1e-6)


def test_a_reflection_is_reached_at_full_alignment_alone():
    """Half the way to the mirror image is no orthogonal matrix at all; the way goes to the best rotation."""
    mirror = torch.diag(torch.tensor([2.0, -1.0])).double()
    assert torch.equal(rotation(mirror, 1.0), torch.diag(torch.tensor([1.0, -1.0])).double())
    torch.testing.assert_close(rotation(mirror, 0.5), torch.eye(2).double())


def copies(frame, common, turns):
    """Clients that all came to the same product, one a turn of its factors."""
    found = []
    for q in turns:
        state = dict(common)
        for module in frame.modules:
            state[f"{module}.lora_A"] = (q.T @ common[f"{module}.lora_A"].double()).float()
            state[f"{module}.lora_B"] = (common[f"{module}.lora_B"].double() @ q).float()
        found.append(state)
    return found


def mean_error(frame, world, states, alignment):
    """How far the mean's product is from that of the clients, who turned by `alignment`."""
    sent = [Contribution(f"{i}", finished(frame, world, s, alignment), 1.0 + i) for i, s in enumerate(states)]
    return error(frame, world, run(Mean(frame), world, sent), sent)


@given(st.integers(1, 4), st.integers(2, 5), st.integers(0, 1000), st.booleans())
def test_turned_copies_of_one_adapter_are_aggregated_exactly_at_full_alignment(rank, count, seed, first_round):
    """Also in the first round, where B is zero and A alone says how to turn."""
    frame = lora_frame(rank)
    world = random_world(frame, seed, shifted=False)
    world = with_zero_b(world) if first_round else world
    generator = torch.Generator().manual_seed(seed)
    states = copies(frame, draw(frame.shapes, seed + 1), [orthogonal(rank, generator) for _ in range(count)])
    for module in frame.modules:
        a, b = (states[0][f"{module}.{side}"].double() for side in ("lora_A", "lora_B"))
        a0, b0 = (world.state[f"{module}.{side}"].double() for side in ("lora_A", "lora_B"))
        values = torch.linalg.svdvals(a @ a0.T + b.T @ b0)
        assume(float(values[-1]) > 0.02 * float(values[0]))  # else the best turn is not well defined in fp32
    assert mean_error(frame, world, states, 1.0) <= 2e-6


def test_turning_further_loses_less():
    """Clients that turned from the global factors by up to a radian or so, as local training may have them do."""
    frame = lora_frame(4)
    world = random_world(frame, 3, shifted=False)
    generator = torch.Generator().manual_seed(8)
    skews = [torch.randn(4, 4, generator=generator, dtype=torch.float64) for _ in range(5)]
    states = copies(frame, world.state, [torch.linalg.matrix_exp(0.3 * (skew - skew.T)) for skew in skews])
    errors = [mean_error(frame, world, states, alignment) for alignment in (0.0, 0.3, 0.6, 1.0)]
    assert errors[0] > 0.1
    assert errors[0] > errors[1] > errors[2] > errors[3]
    assert errors[3] <= 1e-6


def test_in_the_first_round_it_is_a_alone_that_counts():
    """B₀ = 0 says nothing: another B turns the same way."""
    frame = lora_frame(3)
    world = with_zero_b(random_world(frame, 3))
    trained = draw(frame.shapes, 4)
    other = trained | {name: tensor * -5.0 for name, tensor in trained.items() if name.endswith("lora_B")}
    turned, turned_other = (turn(world.state, state, frame, section(0.5)) for state in (trained, other))
    for name in frame.axes:
        expected = turned[name] * -5.0 if name.endswith("lora_B") else turned[name]
        torch.testing.assert_close(turned_other[name], expected)


@given(lora_rounds())
def test_without_alignment_nothing_is_turned(case):
    trained = add(case.world.state, case.contributions[0].delta)
    assert same_bits(turn(case.world.state, trained, case.frame, section(0.0)), trained)


@given(lora_rounds(), ALIGNMENTS)
def test_zero_factors_stay_finite(case, alignment):
    world = with_zero_b(case.world)
    zero = {name: tensor * 0 for name, tensor in world.state.items()}
    for start, trained in ((world.state, zero), (zero, world.state), (zero, zero)):
        turned = turn(start, trained, case.frame, section(alignment))
        assert all(bool(tensor.isfinite().all()) for tensor in turned.values())


def test_numbers_that_are_not_finite_are_left_to_the_coordinator():
    frame = lora_frame(3)
    start = draw(frame.shapes, 3)
    name = min(frame.axes)
    broken = start | {name: torch.full_like(start[name], float("nan"))}
    assert bool(turn(start, broken, frame, section(0.5))[name].isnan().all())


@given(lora_rounds(), st.randoms(use_true_random=False))
def test_the_order_of_arrival_changes_no_bit(case, random):
    sent = [
        replace(c, delta=finished(case.frame, case.world, add(case.world.state, c.delta), 0.5))
        for c in case.contributions
    ]
    before = run(Mean(case.frame), case.world, sent)
    after = run(Mean(case.frame), case.world, random.sample(sent, len(sent)))
    assert same_bits(before.state, after.state)


def test_what_the_scheme_says_of_itself():
    assert SCHEME.forms == LORA
    assert SCHEME.aggregator is Mean
    assert isinstance(SCHEME.make(section(0.5), lora_frame(2)), Mean)
    assert "lora" not in Mean.exact_for | Mean.heterogeneous_for
    layout = Layout("lora", [(10, 6), (4, 4)], rank=2, own_rank=2, ranks=[2, 2], head=7)
    assert SCHEME.traffic(layout) == Traffic(up=2 * 16 + 2 * 8 + 7, down=2 * 16 + 2 * 8 + 7)
