"""HetLoRA is the norm-weighted sum of zero-padded factors; a client gives up slots that lost norm."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from fedtune.adapters.slots import narrow
from fedtune.aggregation.base import Contribution, Global
from fedtune.aggregation.hetlora import SCHEME, HetLora, pruned_rank
from fedtune.aggregation.mean import mean_state
from fedtune.aggregation.scheme import LORA, Layout, Traffic
from tests.aggregation.random_rounds import Round, lora_rounds, same_bits, with_zero_b
from tests.aggregation.worlds_of_factors import (
    WEIGHTS,
    draw,
    leading,
    lora_frame,
    random_contributions,
    random_world,
    run_scheme,
)


@st.composite
def mixed_rounds(draw_from):
    """Clients of different ranks; the largest rank may be nobody's."""
    rank = draw_from(st.integers(1, 6))
    ranks = draw_from(st.lists(st.integers(1, rank), min_size=1, max_size=5))
    weights = draw_from(st.lists(WEIGHTS, min_size=len(ranks), max_size=len(ranks)))
    seed, frame = draw_from(st.integers(0, 10_000)), lora_frame(rank)
    return Round(frame, random_world(frame, seed), random_contributions(frame, weights, seed, ranks=ranks))


def padded(case, contribution):
    """A client's factors after its training, zero beyond its rank, as float64 arrays by name."""
    found = {}
    for name, start in case.world.state.items():
        if not name.startswith("head."):
            own = narrow({name: start}, case.frame.axes, contribution.slots)[name].double()
            own = (own + contribution.delta[name].double()).numpy()
            found[name] = np.pad(own, [(0, size - part) for size, part in zip(start.shape, own.shape, strict=True)])
    return found


def norms(case):
    """‖Bₖ·Aₖ‖ over all modules, from the dense products."""
    clients = [padded(case, c) for c in case.contributions]
    products = [[c[f"{m}.lora_B"] @ c[f"{m}.lora_A"] for m in case.frame.modules] for c in clients]
    return clients, np.array([np.sqrt(sum(np.square(p).sum() for p in own)) for own in products])


@given(mixed_rounds())
def test_the_result_is_the_padded_sum_weighted_by_the_norms_of_the_products(case):
    after = run_scheme(SCHEME, case.frame, case.world, case.contributions)
    clients, sizes = norms(case)
    reach = max(case.frame.slots if c.slots is None else len(c.slots) for c in case.contributions)
    for name, axes in case.frame.axes.items():
        expected = sum(size / sizes.sum() * client[name] for size, client in zip(sizes, clients, strict=True))
        lead = [slice(0, reach if axis in axes else None) for axis in (0, 1)]
        found = after.state[name].numpy()
        np.testing.assert_allclose(found[tuple(lead)], expected[tuple(lead)], rtol=1e-5, atol=1e-6)


@given(mixed_rounds())
def test_slots_that_nobody_trained_stay_as_they_are(case):
    after = run_scheme(SCHEME, case.frame, case.world, case.contributions)
    reach = max(case.frame.slots if c.slots is None else len(c.slots) for c in case.contributions)
    for module in case.frame.modules:
        a, b = f"{module}.lora_A", f"{module}.lora_B"
        assert torch.equal(after.state[a][reach:], case.world.state[a][reach:])
        assert torch.equal(after.state[b][:, reach:], case.world.state[b][:, reach:])


@given(st.lists(WEIGHTS, min_size=1, max_size=5), st.integers(0, 1000), st.integers(1, 5))
def test_equal_ranks_and_equal_norms_give_the_unweighted_mean(weights, seed, rank):
    """The rows of B in another order leave the norm of the product as it is."""
    frame, world = lora_frame(rank), random_world(lora_frame(rank), seed)
    first = random_contributions(frame, [1.0], seed)[0].delta
    clients = []
    for i, weight in enumerate(weights):
        order = torch.Generator().manual_seed(i)
        delta = {}
        for name, tensor in first.items():
            start = world.state[name]
            turn = name.endswith("lora_B")
            rows = torch.randperm(len(start), generator=order) if turn else torch.arange(len(start))
            delta[name] = (start + tensor)[rows] - start
        clients.append(Contribution(f"client-{i}", delta, weight))
    after = run_scheme(SCHEME, frame, world, clients)
    expected = mean_state(world, [replace(c, weight=1.0) for c in clients], frame)
    for name in frame.axes:
        torch.testing.assert_close(after.state[name], expected[name], rtol=1e-5, atol=2e-6)


@given(lora_rounds())
def test_the_plain_weights_count_where_all_products_are_zero(case):
    """Nobody's B has left zero, and there is no norm to weigh by."""
    world = with_zero_b(case.world)
    still = [
        replace(c, delta={n: t * 0 if n.endswith("lora_B") else t for n, t in c.delta.items()})
        for c in case.contributions
    ]
    after = run_scheme(SCHEME, case.frame, world, still)
    expected = mean_state(world, still, case.frame)
    for name, tensor in after.state.items():
        torch.testing.assert_close(tensor, expected[name], rtol=1e-5, atol=1e-5)


@given(mixed_rounds())
def test_the_head_is_averaged_by_the_plain_weights(case):
    after = run_scheme(SCHEME, case.frame, case.world, case.contributions)
    expected = mean_state(case.world, case.contributions, case.frame)
    assert all(torch.equal(after.state[name], expected[name]) for name in ("head.weight", "head.bias"))


@given(mixed_rounds(), st.randoms(use_true_random=False))
def test_the_order_of_arrival_changes_no_bit(case, random):
    before = run_scheme(SCHEME, case.frame, case.world, case.contributions)
    after = run_scheme(SCHEME, case.frame, case.world, random.sample(case.contributions, len(case.contributions)))
    assert same_bits(before.state, after.state)


@given(st.integers(1, 8), st.sampled_from([0.1, 0.25, 0.5, 0.7, 0.99]), st.integers(0, 1000))
def test_a_client_gives_up_its_last_slots_exactly_where_their_norm_fell(rank, prune, seed):
    frame = lora_frame(8)
    start = narrowed(frame, draw(frame.shapes, seed), rank)
    lost = -(-round(prune * 100) * rank // 100)  # ⌈prune·rank⌉ in whole numbers
    smaller = {n: scaled_tail(frame, n, t, rank - lost, 0.9) for n, t in start.items()}
    larger = {n: scaled_tail(frame, n, t, rank - lost, 1.1) for n, t in start.items()}
    assert pruned_rank(start, smaller, frame, rank, prune) == max(1, rank - lost)
    assert pruned_rank(start, larger, frame, rank, prune) == rank
    assert pruned_rank(start, start, frame, rank, prune) == rank


def narrowed(frame, state, rank):
    """A whole state that is zero beyond `rank`."""
    keep = leading(frame, rank)
    return {n: t if keep is None else scaled_tail(frame, n, t, rank, 0.0) for n, t in state.items()}


def scaled_tail(frame, name, tensor, first, factor):
    """The tensor with its slots from `first` on scaled; the head as it is."""
    scale = torch.ones(frame.slots)
    scale[first:] = factor
    axes = frame.axes.get(name, ())
    return tensor * scale.reshape([-1 if axis in axes else 1 for axis in (0, 1)]) if axes else tensor


def test_the_slots_before_the_tail_do_not_count_and_those_of_all_modules_do():
    frame = lora_frame(4)
    start = draw(frame.shapes, 3)
    quieter = {n: t * torch.tensor([0.0, 0.0, 1.0, 1.0])[:, None] if n.endswith("A") else t for n, t in start.items()}
    assert pruned_rank(start, quieter, frame, 4, 0.5) == 4
    name = max(frame.axes)
    one_module = start | {name: start[name] * 0.5}
    assert pruned_rank(start, one_module, frame, 4, 0.5) == 2


def test_nothing_is_given_up_in_the_first_round():
    """B starts at zero, so no slot can have less norm than before."""
    frame = lora_frame(4)
    world = with_zero_b(Global(draw(frame.shapes, 3)))
    assert pruned_rank(world.state, draw(frame.shapes, 4, 1e-6), frame, 4, 0.5) == 4


@pytest.mark.parametrize(("prune", "left"), [(0.28, 18), (0.3, 17), (0.56, 11), (0.01, 24)])
def test_the_share_is_rounded_up_in_whole_slots(prune, left):
    """0.28·25 is more than seven in floating point, and seven slots all the same."""
    frame = lora_frame(25)
    start = draw(frame.shapes, 3)
    assert pruned_rank(start, {n: t * 0.5 for n, t in start.items()}, frame, 25, prune) == left


def test_what_the_scheme_says_of_itself():
    assert SCHEME.forms == LORA
    assert SCHEME.aggregator is HetLora
    assert (HetLora.exact_for, HetLora.heterogeneous_for, HetLora.linear) == (frozenset(), LORA, False)
    layout = Layout("lora", [(10, 6), (4, 4)], rank=8, own_rank=2, ranks=[2, 8], head=7)
    assert SCHEME.traffic(layout) == Traffic(up=2 * 16 + 2 * 8 + 7, down=2 * 16 + 2 * 8 + 7)
