"""What a policy allows: each rule by itself, said in one sentence that names it, before anything is loaded."""

from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from client.policy.charge import check_covered
from client.policy.declined import AgainstPolicy, Declined, Withheld
from client.policy.hours import Hours
from client.policy.rules import Asked, check_rules
from fedtune.privacy.plan import plan_of
from tests.client.budgets import EXAMPLE, guard_of, policy_of, recipe_of, task_of

NOON = datetime(2026, 6, 1, 12, 0, tzinfo=UTC)
CENTRAL = {"unit": "client", "delta": 1e-6, "noise_multiplier": 1.0, "sampling_rate": 0.1, "population": 50}
LOCAL = {"unit": "client", "delta": 1e-6, "noise_multiplier": 1.0, "noise": "client"}


def asked(now: datetime = NOON, **sections: Any) -> Asked:
    recipe = recipe_of(**sections)
    return Asked(recipe, plan_of(recipe), "f" * 32, now)


BROKEN: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "expired on 2026-05-31": ({"expires": date(2026, 5, 31)}, {}),
    "hours are 20:00-06:00 (UTC)": ({"hours": "20:00-06:00", "timezone": "UTC"}, {}),
    "models does not name 'minilm'": ({"models": ("smollm2-135m", "e" * 32)}, {}),
    "adapters does not name 'square'": ({"adapters": ("lora", "ravan")}, {}),
    "schemes does not name 'mean'": ({"schemes": ("fedex",)}, {}),
    "init does not name 'random'": ({"init": ("weights",)}, {"adapter": {"init": "random"}}),
    "without_privacy is false": ({}, {"privacy": {}}),
    'units does not name "client"': ({"units": ("example",)}, {"privacy": CENTRAL}),
    'units does not name "example"': ({"units": ("client",)}, {}),
    'trust is "client"': ({"trust": "client"}, {"privacy": CENTRAL}),
    "noise_multiplier_min is 1.5, and the recipe's is 1": ({"noise_multiplier_min": 1.5}, {}),
}


@pytest.mark.parametrize("sentence", BROKEN)
def test_a_broken_rule_is_said_by_its_name(sentence: str) -> None:
    keys, sections = BROKEN[sentence]
    with pytest.raises(AgainstPolicy) as caught:
        check_rules(policy_of(**keys), asked(**sections))
    assert sentence in caught.value.told
    assert caught.value.reason == "policy"


KEPT: list[tuple[dict[str, Any], dict[str, Any]]] = [
    ({}, {}),
    ({"expires": date(2026, 6, 1)}, {}),
    ({"hours": "11:00-13:00", "timezone": "UTC"}, {}),
    ({"models": ("minilm",)}, {}),
    ({"models": ("f" * 32,)}, {"model": {"name": "any"}}),
    ({"adapters": ("square",), "schemes": ("mean",), "init": ("weights",)}, {}),
    ({"without_privacy": True}, {"privacy": {}}),
    ({"noise_multiplier_min": 1.0}, {}),
    ({"trust": "client"}, {}),
    ({"trust": "client"}, {"privacy": LOCAL}),
    ({}, {"privacy": CENTRAL}),
]


@pytest.mark.parametrize(("keys", "sections"), KEPT)
def test_what_a_policy_allows_passes(keys: dict[str, Any], sections: dict[str, Any]) -> None:
    check_rules(policy_of(**keys), asked(**sections))


def test_all_broken_rules_are_said_at_once() -> None:
    with pytest.raises(AgainstPolicy, match=r"models .*; adapters .*; noise_multiplier_min"):
        check_rules(policy_of(models=("a",), adapters=("lora",), noise_multiplier_min=2.0), asked())


@given(st.times(), st.times(), st.datetimes(timezones=st.just(UTC)))
def test_hours_are_a_span_of_the_wall_clock_over_midnight_too(start: Any, end: Any, moment: datetime) -> None:
    text = f"{start:%H:%M}-{end:%H:%M}"
    if f"{start:%H:%M}" == f"{end:%H:%M}":
        with pytest.raises(ValueError, match="same minute"):
            Hours.parse(text)
        return
    minute = moment.hour * 60 + moment.minute
    length = (end.hour * 60 + end.minute - start.hour * 60 - start.minute) % 1440
    inside = (minute - start.hour * 60 - start.minute) % 1440 < length
    assert Hours.parse(text).include(moment, "UTC") is inside


def test_hours_follow_the_clock_of_their_time_zone_in_summer_and_winter() -> None:
    hours = Hours.parse("20:00-21:00")
    assert hours.include(datetime(2026, 1, 1, 19, 30, tzinfo=UTC), "Europe/Berlin")
    assert not hours.include(datetime(2026, 7, 1, 19, 30, tzinfo=UTC), "Europe/Berlin")
    assert hours.include(datetime(2026, 7, 1, 18, 30, tzinfo=UTC), "Europe/Berlin")


def test_steps_and_rounds_are_limited(tmp_path: Path) -> None:
    recipe = recipe_of(training={"steps": 4})
    with pytest.raises(AgainstPolicy, match="max_steps_per_round is 3"):
        guard_of(tmp_path, max_steps_per_round=3).reserve(task_of(recipe), recipe, "me", rows=10)
    guard = guard_of(tmp_path, max_rounds_per_run=2, max_steps_per_round=4)
    for round_ in (1, 2, 2, 1):
        guard.reserve(task_of(recipe, round_=round_), recipe, "me", rows=10)
    with pytest.raises(AgainstPolicy, match="max_rounds_per_run is 2"):
        guard.reserve(task_of(recipe, round_=3), recipe, "me", rows=10)
    guard.reserve(task_of(recipe, run="another", round_=3), recipe, "me", rows=10)


def test_too_many_steps_of_an_epoch_do_not_tell_how_many_rows_there_are(tmp_path: Path) -> None:
    recipe = recipe_of(privacy={}, training={"epochs": 1, "batch_size": 1})
    with pytest.raises(AgainstPolicy) as caught:
        guard_of(tmp_path, max_steps_per_round=3, without_privacy=True).reserve(
            task_of(recipe), recipe, "me", rows=7919
        )
    assert "7919" in str(caught.value)
    assert "7919" not in caught.value.told


@pytest.mark.parametrize("kind", ["evaluate", "gradient"])
@pytest.mark.parametrize("privacy", [EXAMPLE, CENTRAL, LOCAL])
def test_under_privacy_what_no_noise_covers_is_withheld(kind: Any, privacy: dict[str, Any]) -> None:
    recipe = recipe_of(privacy=privacy, adapter={"init": "private-gradient"})
    with pytest.raises(Withheld) as caught:
        check_covered(task_of(recipe, kind=kind), plan_of(recipe))
    assert caught.value.reason == "withheld"


@pytest.mark.parametrize("kind", ["evaluate", "gradient", "train"])
def test_what_noise_covers_or_nobody_hides_is_not_withheld(kind: Any) -> None:
    private = recipe_of(privacy={**EXAMPLE, "metrics": "noised"}, adapter={"init": "dp-gradient"})
    for recipe in (private, recipe_of(privacy={})):
        check_covered(task_of(recipe, kind=kind), plan_of(recipe))


def test_a_guard_without_a_policy_withholds_too(tmp_path: Path) -> None:
    recipe = recipe_of()
    with pytest.raises(Declined):
        guard_of(tmp_path).reserve(task_of(recipe, kind="evaluate"), recipe, "me", rows=10)
    assert guard_of(tmp_path).book.entries() == ()
