"""The product error against the dense brute force, and what it says of schemes whose exactness is known."""

import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from fedtune.adapters.shift import NO_SHIFT, Shift
from fedtune.aggregation import SCHEMES, Contribution, Frame, Global, make_aggregator
from fedtune.aggregation.diagnose import Diagnosed, product_error
from fedtune.aggregation.frame import frame_of
from fedtune.aggregation.mean import Mean
from fedtune.aggregation.server_optimizer import ServerOptimised
from fedtune.errors import RunError, WeightOutOfRange
from fedtune.recipe import AdapterSection, AggregationSection
from fedtune.state import digest
from tests.adapters.adapter_models import attached_to
from tests.aggregation.product_frames import lora, square, whole_change
from tests.aggregation.worlds_of_factors import (
    SIZES,
    WEIGHTS,
    draw,
    lora_frame,
    mean_product,
    random_contributions,
    random_world,
    run,
)

DIAGNOSED = AggregationSection(diagnose=True)


def brute_force(frame: Frame, before: Global, after: Global, contributions: Sequence[Contribution]) -> float:
    """Every ΔW written out, all modules in one vector."""
    expected, found = mean_product(frame, before, contributions), whole_change(frame, after)
    distance = torch.cat([(found[m] - expected[m]).flatten() for m in frame.modules]).norm()
    return float(distance / torch.cat([expected[m].flatten() for m in frame.modules]).norm())


@given(st.integers(1, 4), SIZES, SIZES, st.lists(WEIGHTS, min_size=1, max_size=5), st.integers(0, 1000), st.booleans())
def test_the_error_is_the_brute_force(
    rank: int, out: int, in_: int, weights: list[float], seed: int, shifted: bool
) -> None:
    """Whatever came out of the round: another state, another shift."""
    frame = lora(rank, modules={"x": (out, in_), "y": (in_, out)})
    before, after = random_world(frame, seed, shifted=shifted), random_world(frame, seed + 500, shifted=not shifted)
    contributions = random_contributions(frame, weights, seed)
    expected = brute_force(frame, before, after, contributions)
    assert product_error(frame, before, after, contributions) == pytest.approx(expected, rel=1e-6)


def test_clients_of_smaller_rank_count_with_what_they_were_sent() -> None:
    frame = lora(4)
    before, after = random_world(frame, 1), random_world(frame, 2)
    contributions = random_contributions(frame, [3.0, 1.0, 2.0], 5, ranks=[1, 4, 2])
    expected = brute_force(frame, before, after, contributions)
    assert product_error(frame, before, after, contributions) == pytest.approx(expected, rel=1e-6)


def test_what_a_client_does_not_send_stays_as_it_was_sent() -> None:
    """As in RoLoRA's rounds, where one factor is frozen."""
    frame = lora(3)
    before, after = random_world(frame, 1), random_world(frame, 2)
    names = [name for name in frame.shapes if name.endswith("lora_B")]
    contributions = random_contributions(frame, [3.0, 1.0], 5, names=names)
    expected = brute_force(frame, before, after, contributions)
    assert product_error(frame, before, after, contributions) == pytest.approx(expected, rel=1e-6)


@given(st.integers(1, 4), st.lists(WEIGHTS, min_size=1, max_size=6), st.integers(0, 1000))
def test_the_mean_of_square_adapters_is_exact(rank: int, weights: list[float], seed: int) -> None:
    frame = square(rank)
    world = Global(draw(frame.shapes, seed))
    aggregator = Diagnosed(Mean(frame), frame)
    run(aggregator, world, random_contributions(frame, weights, seed))
    assert aggregator.error is not None
    assert aggregator.error <= 1e-6


@pytest.mark.parametrize("drift", [0.1, 1.0])
def test_the_mean_of_loras_factors_is_not_and_the_less_so_the_further_clients_drift(drift: float) -> None:
    frame = lora(3)
    world = Global(draw(frame.shapes, 0))
    aggregator = Diagnosed(Mean(frame), frame)
    run(aggregator, world, random_contributions(frame, [1.0, 2.0, 3.0], 9, size=drift))
    assert aggregator.error is not None
    assert aggregator.error > drift**2 / 10
    run(aggregator, world, random_contributions(frame, [1.0], 9, size=drift))
    assert aggregator.error <= 1e-6


@pytest.mark.parametrize("scheme", ["fedex", "flora"])
def test_schemes_that_shift_the_base_weights_are_exact(scheme: str) -> None:
    frame = lora(3)
    section = AggregationSection.model_validate({"scheme": scheme, "diagnose": True})
    aggregator = make_aggregator(section, frame)
    assert isinstance(aggregator, Diagnosed)
    run(aggregator, random_world(frame, 3), random_contributions(frame, [1.0, 2.0, 3.0], 9))
    assert aggregator.error is not None
    assert aggregator.error <= 1e-6


@pytest.mark.parametrize(
    ("kind", "low", "high"),
    [
        ({"kind": "square"}, 0.0, 1e-6),
        ({"kind": "ravan", "init": "random", "heads": 3}, 0.0, 1e-6),
        ({"kind": "lora", "init": "kaiming", "freeze_a": True}, 0.0, 1e-6),
        ({"kind": "lora", "init": "kaiming"}, 1e-3, math.inf),
    ],
)
def test_real_adapters_are_diagnosed_through_their_frame(
    kind: dict[str, object], low: float, high: float, tiny_bert_folder: Path
) -> None:
    _, attached = attached_to(tiny_bert_folder, "bert", **kind)
    frame = frame_of(attached, AdapterSection.model_validate({"rank": 4, **kind}))
    aggregator = make_aggregator(DIAGNOSED, frame)
    assert isinstance(aggregator, Diagnosed)
    run(aggregator, Global(attached.read()), random_contributions(frame, [1.0, 2.0, 3.0], 2, size=0.1))
    assert aggregator.error is not None
    assert low <= aggregator.error <= high


def test_an_adapter_without_a_product_has_no_error() -> None:
    frame = lora_frame(2)
    aggregator = Diagnosed(Mean(frame), frame)
    run(aggregator, random_world(frame, 1), random_contributions(frame, [1.0, 2.0], 1))
    assert aggregator.error is None


def test_where_nothing_was_learnt_there_is_nothing_to_be_wrong() -> None:
    frame = square(2)
    zero = Global({name: torch.zeros(shape) for name, shape in frame.shapes.items()})
    still = Contribution("c", {name: torch.zeros(shape) for name, shape in frame.shapes.items()}, 1.0)
    assert product_error(frame, zero, zero, [still]) == 0.0
    moved = Global(draw(frame.shapes, 1))
    assert product_error(frame, zero, moved, [still]) == math.inf
    aggregator = Diagnosed(_Always(frame, moved), frame)
    run(aggregator, zero, [still])
    assert aggregator.error is None


class _Always(Mean):
    """Comes to the same world, whatever is added."""

    def __init__(self, frame: Frame, world: Global) -> None:
        super().__init__(frame)
        self._result = world

    def finish(self) -> Global:
        return self._result


def test_a_dense_shift_counts() -> None:
    frame = lora(2)
    dense = Shift().then({f"{m}.D": torch.full(shape, 0.5) for m, shape in frame.modules.items()})
    world = Global(draw(frame.shapes, 1), dense)
    contributions = random_contributions(frame, [1.0, 2.0], 1)
    after = replace(run(Mean(frame), world, contributions), shift=NO_SHIFT)
    expected = brute_force(frame, world, after, contributions)
    assert expected > 0.01
    assert product_error(frame, world, after, contributions) == pytest.approx(expected, rel=1e-6)


def test_the_order_of_arrival_changes_neither_result_nor_error() -> None:
    frame, found = lora(3), []
    contributions = random_contributions(frame, [1.0, 2.0, 3.0], 9)
    for order in (1, -1):
        aggregator = Diagnosed(Mean(frame), frame)
        found.append((run(aggregator, random_world(frame, 3), contributions[::order]).digest(), aggregator.error))
    assert found[0] == found[1]


def test_the_diagnosis_changes_no_bit_of_the_result_and_starts_anew_each_round() -> None:
    frame = lora(3)
    contributions = random_contributions(frame, [1.0, 2.0, 3.0], 9)
    aggregator, world = Diagnosed(Mean(frame), frame), random_world(frame, 3)
    assert run(aggregator, world, contributions).digest() == run(Mean(frame), world, contributions).digest()
    first = aggregator.error
    aggregator.begin(world, 4)
    assert aggregator.error is None
    with pytest.raises(RunError):
        aggregator.finish()
    run(aggregator, world, contributions)
    assert aggregator.error == first


def test_an_update_that_is_refused_is_not_diagnosed_either() -> None:
    frame = lora(3)
    good, bad = random_contributions(frame, [1.0, 2.0], 9)
    aggregator, world = Diagnosed(Mean(frame), frame), random_world(frame, 3)
    aggregator.begin(world, 1)
    aggregator.add(good)
    with pytest.raises(WeightOutOfRange):
        aggregator.add(replace(bad, weight=1e12))
    aggregator.finish()
    assert aggregator.error is not None
    assert aggregator.error <= 1e-6


def test_nothing_that_is_given_is_written_to() -> None:
    frame = square(3)
    world, contributions = random_world(frame, 3), random_contributions(frame, [1.0, 2.0, 3.0], 9)
    before = [world.digest(), *(digest(c.delta) for c in contributions)]
    run(Diagnosed(Mean(frame), frame), world, contributions)
    assert [world.digest(), *(digest(c.delta) for c in contributions)] == before


def test_the_recipe_puts_the_diagnosis_around_the_server_optimiser() -> None:
    frame = square(2)
    section = AggregationSection(diagnose=True, server_optimizer="adam")
    aggregator = make_aggregator(section, frame)
    assert isinstance(aggregator, Diagnosed)
    assert isinstance(aggregator.inner, ServerOptimised)
    assert isinstance(aggregator.inner.inner, Mean)
    assert aggregator.linear is False
    assert aggregator.heterogeneous_for == Mean.heterogeneous_for
    assert isinstance(make_aggregator(AggregationSection(), frame), Mean)


def test_a_scheme_whose_clients_keep_a_factor_is_not_diagnosed() -> None:
    """The coordinator does not know their products."""
    frame = lora(2)
    for name, scheme in SCHEMES.items():
        section = AggregationSection.model_validate({"scheme": name, "diagnose": True})
        kept = scheme.keeps(tuple(frame.shapes))
        assert isinstance(make_aggregator(section, frame), Diagnosed) is not bool(kept)
    assert any(scheme.keeps(tuple(frame.shapes)) for scheme in SCHEMES.values())
