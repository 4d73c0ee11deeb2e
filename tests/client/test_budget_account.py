"""What a book comes to: one ε over all mechanisms, about one stated thing, that more entries never make less."""

import math
from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from client.policy.account import CLIENT, EXCHANGED, ROW, spent
from client.policy.charge import Charge, charge_of
from client.policy.entry import Entry
from fedtune.privacy.events import Event
from fedtune.privacy.plan import Plan, plan_of
from fedtune.recipe import Recipe
from tests.client.budgets import DELTA, EXAMPLE, entry_of, gaussian_epsilon, recipe_of, task_of

CENTRAL = {"unit": "client", "delta": 1e-6, "noise_multiplier": 2.0, "sampling_rate": 0.1, "population": 50}
BANDED = {**CENTRAL, "mechanism": "banded", "min_separation": 4, "sampling_rate": None}
LOCAL = {"unit": "client", "delta": 1e-6, "noise_multiplier": 4.0, "noise": "client"}

row = entry_of(Event(noise_multiplier=3.0))
local = entry_of(Event(noise_multiplier=3.0), unit="client", relation="replace-one")
central = entry_of(Event(noise_multiplier=3.0), unit="client", trust="coordinator")


def epsilon(*entries: Entry) -> float:
    return spent(entries, DELTA, gaussian_epsilon).epsilon


def settled(recipe: Recipe) -> Plan:
    plan = plan_of(recipe)
    assert plan is not None
    return plan


@pytest.mark.parametrize(
    ("entries", "about"),
    [
        ((), ROW),
        ((row, row), ROW),
        ((local, local), EXCHANGED),
        ((central, central), CLIENT),
        ((row, local), ROW),
        ((local, central), EXCHANGED),
        ((row, central), ROW),
    ],
)
def test_what_an_epsilon_is_about_is_said(entries: Sequence[Entry], about: str) -> None:
    assert spent(entries, DELTA, gaussian_epsilon).about == about


def test_an_empty_book_has_spent_nothing() -> None:
    assert epsilon() == 0.0


@pytest.mark.parametrize("kind", [row, local, central])
def test_entries_of_one_kind_compose_in_one_accountant(kind: Entry) -> None:
    assert epsilon(kind, kind, kind) == gaussian_epsilon([Event(noise_multiplier=3.0, count=3)], DELTA)


def test_rows_and_local_noise_compose_together() -> None:
    assert epsilon(row, local) == epsilon(row, row)


def test_noise_of_the_coordinator_among_others_hides_an_exchanged_client_at_twice_the_price() -> None:
    """Checked against the definition: 2ε at the δ that group privacy of two gives, and basic composition."""
    together = epsilon(row, central)
    direct = gaussian_epsilon(row.events, DELTA / 2)
    one = (together - direct) / 2
    delta = delta_of(1 / 3.0, one)
    assert delta * (1 + math.exp(one)) <= DELTA / 2
    assert delta_of(1 / 3.0, one / 1.005) * (1 + math.exp(one / 1.005)) > DELTA / 2  # and not much more than needed
    assert together > epsilon(row, row, row, row, row)  # an exchange moves the sum by twice the clip, at the least


def delta_of(mu: float, at: float) -> float:
    """δ of a Gaussian mechanism at ε (Balle and Wang, arXiv 1805.06530)."""

    def normal(x: float) -> float:
        return math.erfc(-x / math.sqrt(2)) / 2

    return normal(mu / 2 - at / mu) - math.exp(at) * normal(-mu / 2 - at / mu)


def test_where_no_finite_epsilon_can_be_shown_it_is_infinite() -> None:
    loud = entry_of(Event(noise_multiplier=0.1), unit="client", trust="coordinator")
    assert epsilon(row, loud) == math.inf


def test_tasks_without_privacy_are_counted_and_finished_ones_cost_nothing() -> None:
    plain = entry_of(unit="none").model_copy(update={"events": ()})
    total = spent([plain, plain, row, row.model_copy(update={"what": "done"})], DELTA, gaussian_epsilon)
    assert (total.unprotected, total.epsilon) == (2, epsilon(row))


@given(st.lists(st.tuples(st.sampled_from([row, local, central]), st.floats(1.5, 50.0)), min_size=1, max_size=6))
def test_another_entry_never_makes_it_less(kinds: list[tuple[Entry, float]]) -> None:
    entries = [kind.model_copy(update={"events": (Event(noise_multiplier=sigma),)}) for kind, sigma in kinds]
    assert epsilon(*entries[:-1]) <= epsilon(*entries) * (1 + 1e-3)


def test_the_accountant_of_the_project_is_the_default() -> None:
    from fedtune.privacy.accounting import epsilon_of

    entries = [entry_of(Event(noise_multiplier=1.0, sampling_rate=0.01, count=100))] * 3
    expected = epsilon_of([Event(noise_multiplier=1.0, sampling_rate=0.01, count=300)], DELTA)
    assert spent(entries, DELTA).epsilon == expected


# What a task is charged


def test_rows_pay_for_what_the_task_does() -> None:
    recipe = recipe_of(
        privacy={**EXAMPLE, "metrics": "noised", "metrics_noise": 9.0, "init_noise": 5.0},
        adapter={"init": "dp-gradient"},
    )
    plan = settled(recipe)
    paid = {
        kind: charge_of(task_of(recipe, kind=kind), recipe, plan, ()).events
        for kind in ("train", "evaluate", "gradient")
    }
    assert paid == {
        "train": (Event(noise_multiplier=1.0, sampling_rate=0.1, count=4),),
        "evaluate": (Event(noise_multiplier=9.0, purpose="metrics"),),
        "gradient": (Event(noise_multiplier=5.0, purpose="init"),),
    }


def test_local_noise_is_paid_by_round() -> None:
    recipe = recipe_of(privacy=LOCAL)
    charge = charge_of(task_of(recipe), recipe, settled(recipe), ())
    assert (charge.relation, charge.trust, charge.unit) == ("replace-one", "client", "client")
    assert charge.events == (Event(noise_multiplier=2.0),)


WAYS = {
    "drawn": (CENTRAL, {}),
    "turns": (BANDED, {"clients_per_round": 12}),
    "rare": (BANDED, {"clients_per_round": 5}),
}
"""50 clients: drawn, in every 4th round, in every 10th."""


@pytest.mark.parametrize("way", WAYS)
def test_noise_of_the_coordinator_is_paid_for_the_whole_run_at_the_first_task(way: str) -> None:
    """As a client sees it: from what the coordinator sends, which leaves out nothing that the price depends on."""
    privacy, federation = WAYS[way]
    recipe = recipe_of(privacy=privacy, federation={"rounds": 30, **federation})
    seen = Recipe.from_coordinator(recipe.for_clients())
    first = charge_of(task_of(recipe, round_=7), seen, settled(seen), ())
    assert first.trust == "coordinator"
    assert gaussian_epsilon(first.events, DELTA) == pytest.approx(
        gaussian_epsilon(settled(recipe).planned(), DELTA), rel=1e-9
    )
    past = [entry_of(*first.events, round=7, unit="client", trust="coordinator", through=first.through)]
    assert charge_of(task_of(recipe, round_=20), seen, settled(seen), past).events == ()


def count(charge: Charge) -> int:
    return sum(event.count for event in charge.events)


@pytest.mark.parametrize("way", WAYS)
def test_a_round_that_is_asked_for_again_and_rounds_beyond_the_plan_are_paid_too(way: str) -> None:
    privacy, federation = WAYS[way]
    recipe = recipe_of(privacy=privacy, federation={"rounds": 30, **federation})
    plan = settled(recipe)
    first = charge_of(task_of(recipe, round_=7), recipe, plan, ())
    assert count(first) == {"drawn": 30, "turns": 8, "rare": 3}[way]
    past = [entry_of(*first.events, round=7, unit="client", trust="coordinator", through=30)]
    assert count(charge_of(task_of(recipe, round_=7), recipe, plan, past)) == 1
    beyond = charge_of(task_of(recipe, round_=34), recipe, plan, past)
    assert beyond.through == 34
    assert count(beyond) == {"drawn": 4, "turns": 1, "rare": 1}[way]


def test_who_is_asked_more_often_than_its_turn_comes_round_pays_for_every_time() -> None:
    """Three turns were to come of the first task; the fourth and fifth ask are bought one by one."""
    privacy, federation = WAYS["rare"]
    recipe = recipe_of(privacy=privacy, federation={"rounds": 30, **federation})
    past: list[Entry] = []
    paid = []
    for round_ in range(1, 6):
        charge = charge_of(task_of(recipe, round_=round_), recipe, settled(recipe), past)
        entry = entry_of(round=round_, unit="client", trust="coordinator", through=charge.through)
        past.append(entry.model_copy(update={"events": charge.events}))
        paid.append(count(charge))
    assert paid == [3, 0, 0, 1, 1]


def test_a_recipe_without_privacy_is_charged_as_such() -> None:
    recipe = recipe_of(privacy={})
    assert charge_of(task_of(recipe), recipe, None, ()).unit == "none"
