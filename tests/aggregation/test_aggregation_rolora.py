"""RoLoRA trains one factor a round beside the other, which all clients share: every round is exact."""

import torch
from hypothesis import given
from hypothesis import strategies as st

from fedtune.aggregation.mean import Mean
from fedtune.aggregation.rolora import SCHEME, AlternatingMean, trained_in
from fedtune.aggregation.scheme import LORA, Layout, Traffic
from tests.aggregation.random_rounds import lora_rounds, same_bits, with_zero_b
from tests.aggregation.worlds_of_factors import error, lora_frame, random_contributions, random_world, run_scheme


@st.composite
def rounds_by_number(draw):
    """A round number and a round in which the clients sent what they train in it."""
    number = draw(st.integers(1, 6))
    return number, draw(lora_rounds(lambda names: trained_in(names, number)))


@given(rounds_by_number())
def test_the_new_product_is_the_mean_of_the_clients_products_in_every_round(numbered):
    number, case = numbered
    after = run_scheme(SCHEME, case.frame, case.world, case.contributions, number)
    assert error(case.frame, case.world, after, case.contributions) <= 1e-6
    assert "lora" in AlternatingMean.exact_for


@given(rounds_by_number())
def test_the_resting_factor_does_not_change_and_the_other_is_the_weighted_mean(numbered):
    number, case = numbered
    after = run_scheme(SCHEME, case.frame, case.world, case.contributions, number)
    moving, resting = ("lora_B", "lora_A") if number % 2 else ("lora_A", "lora_B")
    for name, tensor in after.state.items():
        if name.endswith(resting):
            assert torch.equal(tensor, case.world.state[name])
        else:
            assert name.endswith(moving) or name.startswith("head.")
            torch.testing.assert_close(tensor.double(), case.mean_of(name), rtol=1e-6, atol=1e-6)


def test_the_plain_mean_of_both_factors_would_not_be_exact():
    """The property above is worth something: it fails where both factors moved."""
    frame, world = lora_frame(3), random_world(lora_frame(3), 1)
    clients = random_contributions(frame, [1.0, 2.0], 1)
    assert error(frame, world, run_scheme(SCHEME, frame, world, clients), clients) > 1e-2


def test_the_first_round_trains_b_which_starts_at_zero():
    names = ("head.bias", "m.lora_A", "m.lora_B", "n.lora_A", "n.lora_B")
    assert SCHEME.trains(names, 1) == ("head.bias", "m.lora_B", "n.lora_B")
    assert SCHEME.trains(names, 2) == ("head.bias", "m.lora_A", "n.lora_A")
    assert SCHEME.trains(names, 3) == SCHEME.trains(names, 1)


@given(rounds_by_number())
def test_a_b_of_zero_stays_finite(numbered):
    number, case = numbered
    after = run_scheme(SCHEME, case.frame, with_zero_b(case.world), case.contributions, number)
    assert all(bool(tensor.isfinite().all()) for tensor in after.state.values())


@given(rounds_by_number(), st.randoms(use_true_random=False))
def test_the_order_of_arrival_changes_no_bit(numbered, random):
    number, case = numbered
    before = run_scheme(SCHEME, case.frame, case.world, case.contributions, number)
    shuffled = random.sample(case.contributions, len(case.contributions))
    assert same_bits(before.state, run_scheme(SCHEME, case.frame, case.world, shuffled, number).state)


def test_what_the_scheme_says_of_itself():
    assert SCHEME.forms == LORA
    assert SCHEME.keeps(("m.lora_A", "m.lora_B")) == ()
    assert SCHEME.aggregator is AlternatingMean
    assert issubclass(AlternatingMean, Mean)
    assert (AlternatingMean.exact_for, AlternatingMean.heterogeneous_for) == (LORA, frozenset())
    assert AlternatingMean.linear
    layout = Layout("lora", [(10, 6), (4, 4)], rank=2, own_rank=2, ranks=[2, 2], head=7)
    odd, even = 2 * 14 + 7, 2 * 10 + 7
    assert SCHEME.traffic(layout) == Traffic(up=(odd + even) // 2, down=2 * 24 + 7)
