"""A robust rule as an aggregator: order, weights, memory, what comes before it, and which rounds are refused."""

from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fedtune.aggregation import Contribution, Global, make_aggregator
from fedtune.aggregation.mean import Mean
from fedtune.aggregation.robust import RobustMean
from fedtune.aggregation.robust.aggregator import CENTRE, poisoned_among
from fedtune.aggregation.robust.rules import RULES
from fedtune.aggregation.validate import check_delta
from fedtune.errors import NonFiniteUpdate, RunError
from fedtune.recipe.aggregation import AggregationSection
from tests.aggregation.robust.worlds import EVERY_WAY, SHAPES, finish, flat, frame_for, section_for, start, updates


@pytest.mark.parametrize(("rule", "before"), EVERY_WAY)
@settings(max_examples=25)
@given(random=st.randoms(use_true_random=False), seed=st.integers(0, 1000))
def test_the_order_of_arrival_changes_no_bit(rule, before, random, seed):
    section, sent = section_for(rule, before), updates(13, seed=seed)
    ordered = finish(section, sent)
    random.shuffle(sent)
    assert finish(section, sent).digest() == ordered.digest()


@pytest.mark.parametrize(("rule", "before"), EVERY_WAY)
def test_equal_updates_come_out_as_they_are(rule, before):
    one = updates(1)[0]
    found = finish(section_for(rule, before), [replace(one, client=f"c{i}") for i in range(9)])
    torch.testing.assert_close(flat(found.state) - 1, flat(one.delta), rtol=0, atol=1e-6)


@pytest.mark.parametrize(("rule", "before"), EVERY_WAY)
def test_weights_that_clients_claim_count_for_nothing(rule, before):
    sent = updates(9)
    boasting = [replace(one, weight=1e7) if i == 3 else one for i, one in enumerate(sent)]
    assert finish(section_for(rule, before), sent).digest() == finish(section_for(rule, before), boasting).digest()


def clip_by_hand(rows):
    lengths = rows.norm(dim=1)
    radius = lengths.sort().values[2:4].mean()
    return (rows * (radius / lengths).clamp(max=1)[:, None]).mean(dim=0)


BY_HAND = {
    "mean": lambda rows: rows.mean(dim=0),
    "median": lambda rows: rows.sort(dim=0).values[2:4].mean(dim=0),
    "trimmed-mean": lambda rows: rows.sort(dim=0).values[1:5].mean(dim=0),
    "krum": lambda rows: rows[torch.cdist(rows, rows).square().sort(dim=1).values[:, 1:4].sum(dim=1).argmin()],
    "centred-clipping": clip_by_hand,
}


@pytest.mark.parametrize("rule", BY_HAND)
def test_the_result_is_the_rule_on_one_row_a_client(rule):
    """Of six updates, one of which may be poisoned; buckets of one mix nothing."""
    sent = updates(6)
    found = finish(section_for(rule, ("bucketing",), bucket_size=1, clip_steps=1), sent)
    rows = torch.stack([flat(one.delta) for one in sent])
    torch.testing.assert_close(flat(found.state) - 1, BY_HAND[rule](rows), rtol=0, atol=1e-6)


def test_the_recipe_decides_between_the_mean_and_a_robust_rule():
    assert isinstance(make_aggregator(AggregationSection(), frame_for()), Mean)
    assert isinstance(make_aggregator(section_for("median"), frame_for()), RobustMean)
    assert isinstance(make_aggregator(section_for("mean", ("nnm",)), frame_for()), RobustMean)


def test_tensors_that_nobody_trained_and_scaffolds_control_stay_as_they_are():
    world = start(control={"m.R": torch.full((3, 3), 2.0)}, memory={"momentum/m.R": torch.ones(3, 3)})
    sent = [replace(one, delta={"m.R": one.delta["m.R"]}) for one in updates(5)]
    after = finish(section_for("centred-clipping"), sent, world=world)
    assert torch.equal(after.state["head.weight"], world.state["head.weight"])
    assert not torch.equal(after.state["m.R"], world.state["m.R"])
    assert after.control is world.control
    assert set(after.memory) == {"momentum/m.R", CENTRE + "m.R"}
    assert all(torch.equal(tensor, torch.ones(SHAPES[name])) for name, tensor in world.state.items())


def test_rules_without_a_centre_remember_nothing():
    assert all(finish(section_for(rule), updates(5)).memory == {} for rule in RULES if rule != "centred-clipping")


def test_centred_clipping_goes_on_from_the_last_round_as_if_it_had_not_been_stopped():
    """What the checkpoint holds (state and memory) is all that the next round starts from."""
    section = section_for("centred-clipping", clip_radius=0.5, clip_steps=1)
    first = finish(section, updates(7, mean=3.0))
    assert {name: tuple(tensor.shape) for name, tensor in first.memory.items()} == {
        CENTRE + name: shape for name, shape in SHAPES.items()
    }
    assert all(tensor.dtype == torch.float32 for tensor in first.memory.values())
    resumed = Global(
        {n: t.clone() for n, t in first.state.items()}, memory={n: t.clone() for n, t in first.memory.items()}
    )
    following = updates(7, seed=1, mean=3.0)
    straight = finish(section, following, world=first, round_=2)
    assert finish(section, following, world=resumed, round_=2).digest() == straight.digest()
    forgetful = finish(section, following, world=replace(first, memory={}), round_=2)
    assert forgetful.digest() != straight.digest()
    # One step of at most 0.5 a round, from where the last one ended: two rounds get twice as far.
    assert flat(first.memory).norm() == pytest.approx(0.5, rel=0.2)
    assert flat(straight.memory).norm() == pytest.approx(1.0, rel=0.2)


@pytest.mark.parametrize(
    ("rows", "share", "f"), [(10, 0.2, 2), (4, 0.2, 0), (100, 0.29, 29), (10, 0.3, 3), (9, 0.49, 4)]
)
def test_f_is_the_share_of_the_updates_that_came_rounded_down(rows, share, f):
    assert poisoned_among(rows, share) == f


def test_buckets_that_attackers_may_hold_in_the_majority_are_refused():
    section = section_for("median", ("bucketing",), attackers=0.3)
    with pytest.raises(RunError, match=r"of 5 updates or buckets 3 may be poisoned.*lower aggregation\.attackers or"):
        finish(section, updates(10))


def test_a_round_that_is_too_small_for_krum_and_an_empty_one_are_refused():
    with pytest.raises(RunError, match="Krum stands 4 poisoned updates among 11 or more, and there were 10"):
        finish(section_for("krum", attackers=0.4), updates(10))
    with pytest.raises(RunError, match="no update was added"):
        finish(section_for("median"), [])


@pytest.mark.parametrize("poison", [float("nan"), float("inf"), -float("inf")])
def test_numbers_that_are_none_are_refused_before_any_rule_sees_them(poison):
    good = updates(5)
    bad = replace(good[0], delta={**good[0].delta, "m.R": torch.full((3, 3), poison)})
    taken = []
    for one in (*good[1:], bad):
        try:
            check_delta(one.delta, SHAPES, AggregationSection())
        except NonFiniteUpdate:
            continue
        taken.append(one)
    assert taken == good[1:]
    assert all(t.isfinite().all() for t in finish(section_for("median"), taken).state.values())


def test_a_robust_rule_claims_neither_exactness_nor_a_sum():
    assert RobustMean.exact_for == RobustMean.heterogeneous_for == frozenset()
    assert RobustMean.linear is False


def test_a_second_round_forgets_the_first_ones_updates():
    aggregator = make_aggregator(section_for("median"), frame_for())
    for round_ in (1, 2):
        aggregator.begin(start(), round_)
        aggregator.add(Contribution("a", {n: torch.full(s, float(round_)) for n, s in SHAPES.items()}, 1.0))
        assert aggregator.finish().state["m.R"].unique().tolist() == [1.0 + round_]
