"""Linear schemes hold a sum and no update, whatever the cohort; the others say that they keep the updates, and do."""

import gc

import pytest
import torch

from fedtune.aggregation import SCHEMES, Aggregator, Contribution, Global, make_aggregator
from fedtune.recipe import AggregationSection
from tests.aggregation.worlds_of_factors import draw, lora_frame, random_world

FRAME = lora_frame(4)


def held_bytes(top: object) -> int:
    """Bytes of all tensors that an object reaches, each storage once."""
    seen: set[int] = set()
    storages: dict[int, int] = {}
    stack = [top]
    while stack:
        found = stack.pop()
        if id(found) in seen or isinstance(found, type) or callable(found):
            continue
        seen.add(id(found))
        if isinstance(found, torch.Tensor):
            storages[found.untyped_storage().data_ptr()] = found.untyped_storage().nbytes()
        else:
            stack.extend(gc.get_referents(found))
    return sum(storages.values())


def after(updates: int, section: AggregationSection) -> int:
    """What an aggregator holds after so many updates."""
    world: Global = random_world(FRAME, 0)
    aggregator: Aggregator = make_aggregator(section, FRAME)
    aggregator.begin(world, 1)
    trained = SCHEMES[section.scheme].trains(tuple(FRAME.shapes), 1)
    for number in range(updates):
        delta = draw({name: FRAME.shapes[name] for name in trained}, number)
        aggregator.add(Contribution(f"client-{number}", delta, 1.0 + number))
    return held_bytes(aggregator)


UPDATE = 4 * sum(torch.Size(shape).numel() for shape in FRAME.shapes.values())


@pytest.mark.parametrize("scheme", [name for name, scheme in SCHEMES.items() if scheme.aggregator.linear])
@pytest.mark.parametrize("server_optimizer", ["none", "adam"])
def test_a_linear_scheme_holds_as_much_after_a_thousand_updates_as_after_ten(scheme, server_optimizer):
    section = AggregationSection(scheme=scheme, server_optimizer=server_optimizer)
    few, many = after(10, section), after(1000, section)
    assert few == many
    assert UPDATE < few < 8 * UPDATE  # the state, and two sums in double precision


@pytest.mark.parametrize("scheme", [name for name, scheme in SCHEMES.items() if not scheme.aggregator.linear])
def test_a_scheme_that_is_not_linear_grows_by_one_update_a_client_as_it_says(scheme):
    section = AggregationSection(scheme=scheme)
    assert SCHEMES[scheme].growth == "one update a client"
    assert after(30, section) - after(10, section) == 20 * UPDATE


def test_a_robust_rule_and_a_diagnosis_grow_too():
    for section in (AggregationSection(rule="median"), AggregationSection(diagnose=True)):
        assert after(30, section) - after(10, section) == 20 * UPDATE
