"""FedSA-LoRA shares A alone: the coordinator averages it, and never sees a B or a head."""

import torch
from hypothesis import given
from hypothesis import strategies as st

from fedtune.aggregation.fedsa import SCHEME, stays_local
from fedtune.aggregation.mean import Mean
from fedtune.aggregation.scheme import LORA, Layout, Traffic
from tests.aggregation.random_rounds import lora_rounds, same_bits, with_zero_b
from tests.aggregation.worlds_of_factors import run_scheme

NAMES = ("head.bias", "head.weight", "m.lora_A", "m.lora_B")


def shared(names):
    """What is trained and not kept."""
    kept = SCHEME.keeps(names)
    return tuple(name for name in SCHEME.trains(names, 1) if name not in kept)


@given(lora_rounds(shared))
def test_a_is_the_weighted_mean_and_the_rest_of_the_state_keeps_every_bit(case):
    after = run_scheme(SCHEME, case.frame, case.world, case.contributions)
    for name, tensor in after.state.items():
        if name.endswith("lora_A"):
            torch.testing.assert_close(tensor.double(), case.mean_of(name), rtol=1e-6, atol=1e-6)
        else:
            assert torch.equal(tensor, case.world.state[name])


def test_everything_is_trained_and_a_alone_is_sent():
    assert SCHEME.trains(NAMES, 1) == SCHEME.trains(NAMES, 2) == NAMES
    assert stays_local(NAMES) == ("head.bias", "head.weight", "m.lora_B")
    assert shared(NAMES) == ("m.lora_A",)


@given(lora_rounds(shared))
def test_a_b_of_zero_stays_zero(case):
    after = run_scheme(SCHEME, case.frame, with_zero_b(case.world), case.contributions)
    assert not any(bool(tensor.any()) for name, tensor in after.state.items() if name.endswith("lora_B"))
    assert all(bool(tensor.isfinite().all()) for tensor in after.state.values())


@given(lora_rounds(shared), st.randoms(use_true_random=False))
def test_the_order_of_arrival_changes_no_bit(case, random):
    before = run_scheme(SCHEME, case.frame, case.world, case.contributions)
    after = run_scheme(SCHEME, case.frame, case.world, random.sample(case.contributions, len(case.contributions)))
    assert same_bits(before.state, after.state)


def test_what_the_scheme_says_of_itself():
    assert SCHEME.forms == LORA
    assert SCHEME.aggregator is Mean
    assert "lora" not in Mean.exact_for | Mean.heterogeneous_for
    assert "no single global model" in SCHEME.note
    layout = Layout("lora", [(10, 6), (4, 4)], rank=2, own_rank=2, ranks=[2, 2], head=7)
    assert SCHEME.traffic(layout) == Traffic(up=2 * 10, down=2 * 10)
