"""What a study of traffic makes of its outcomes: factors, differences, the front, the target, and which goal is met."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from simulations.studies.choose import choose_rates
from simulations.studies.plan import Contender, Plan
from simulations.studies.results import as_csv
from simulations.studies.traffic import Traffic, front_of, rounds_to, traffic_of
from simulations.studies.traffic_picture import draw_traffic
from simulations.studies.traffic_words import fed_sb_goal, lora_goal, traffic_summary
from tests.simulations.study_worlds import outcome, tried

BASE = "fedit-fp32"


def plan_of(**contenders: Contender) -> Plan:
    return Plan(
        form="tiny",
        base="",
        test_rows=10,
        contenders={name.replace("_", "-"): contender for name, contender in contenders.items()},
        splits={"iid": ()},
        seeds=(1, 2, 3),
        tuning_split="iid",
        tuning_seed=9,
    )


PLAN = plan_of(
    fedit_fp32=Contender(method="fedit", settings=(), rates=(1e-3, 1e-2)),
    fedit_sparse=Contender(method="fedit", settings=(), rate_of=BASE),
    fed_sb_sparse=Contender(method="fed-sb", settings=(), rate_of=BASE),
)


def three(name: str, *accuracies: float, up: float) -> list:
    """One outcome a seed, scored after rounds 2 and 4, at half of the end's accuracy first."""
    return [
        outcome(name, seed=seed, accuracy=a, curve=((2, a / 2), (4, a)), bytes_up=up, bytes_down=8e5)
        for seed, a in enumerate(accuracies, start=1)
    ]


def table(sparse: float = 0.79, square: float = 0.8) -> list[Traffic]:
    """The baseline ends at 80 %; both others end around what is given."""
    return traffic_of(
        PLAN,
        [
            *three(BASE, 0.79, 0.80, 0.81, up=8e5),
            *three("fedit-sparse", sparse - 0.02, sparse, sparse + 0.02, up=4e4),
            *three("fed-sb-sparse", square - 0.01, square, square + 0.01, up=400.0),
        ],
        BASE,
    )


def test_a_contender_has_rates_or_takes_those_of_another():
    for both in ({"rates": (1e-3,), "rate_of": "a"}, {}):
        with pytest.raises(ValidationError, match="rates"):
            Contender(settings=(), **both)


def test_contenders_without_rates_train_at_the_chosen_one_and_cost_no_tuning():
    assert [cell.method for cell in PLAN.tuning_cells()] == [BASE, BASE]
    assert PLAN.size() == 2 + 3 * 3
    rates = choose_rates(PLAN, [tried(BASE, 1e-3, local_accuracy=0.5), tried(BASE, 1e-2, local_accuracy=0.6)])
    assert rates == {BASE: 1e-2, "fedit-sparse": 1e-2, "fed-sb-sparse": 1e-2}


def test_rows_hold_factors_differences_and_what_was_sent_until_the_target():
    base, sparse, square = table(sparse=0.76)
    assert [row.times_fewer for row in (base, sparse, square)] == [1, 20, 2000]
    assert [row.method for row in (base, sparse, square)] == ["fedit", "fedit", "fed-sb"]
    assert (base.above_baseline, base.half_width) == (0.0, None)
    assert sparse.above_baseline == pytest.approx(-0.04)
    assert sparse.half_width == pytest.approx(4.303 * 0.01 / math.sqrt(3))  # differences of -5, -4 and -3 points
    assert (base.rounds_to_target, sparse.rounds_to_target, square.rounds_to_target) == (4, None, 4)
    assert (base.bytes_to_target, sparse.bytes_to_target, square.bytes_to_target) == (3.2e6, None, 1600)
    assert [row.on_front for row in (base, sparse, square)] == [False, False, True]


def test_the_target_is_reached_where_the_mean_of_seeds_is_there_and_failures_do_not_count():
    seeds = [
        outcome("a", curve=((2, 0.4), (4, 0.7), (6, 0.6))),
        outcome("a", seed=2, curve=((2, 0.6), (4, 0.4), (6, 0.8))),
        outcome("a", seed=3, failure="it diverged"),
    ]
    assert rounds_to(0.5, seeds) == 2
    assert rounds_to(0.55, seeds) == 4
    assert rounds_to(0.7, seeds) == 6
    assert rounds_to(0.71, seeds) is None
    assert rounds_to(0.0, seeds[2:]) is None


points = st.lists(st.tuples(st.integers(1, 6), st.integers(0, 6)), min_size=1, max_size=12)


@given(points)
def test_on_the_front_is_exactly_what_nothing_beats(values: list[tuple[int, int]]):
    named = {str(position): (float(sent), score / 6) for position, (sent, score) in enumerate(values)}
    front = front_of(named)
    for name, (sent, score) in named.items():
        beaten = any(s <= sent and a >= score and (s, a) != (sent, score) for s, a in named.values())
        twin = any(other in front and named[other] == (sent, score) for other in named if other != name)
        assert (name in front) is (not beaten and not twin)


@pytest.mark.parametrize(("square", "verdict"), [(0.792, "met"), (0.78, "missed")])
def test_the_goal_of_fed_sb_is_met_with_no_more_than_a_point_lost(square: float, verdict: str):
    told = fed_sb_goal(table(square=square))
    assert f": {verdict} in the mean" in told
    assert "fed-sb-sparse, 2,000 times fewer" in told


@pytest.mark.parametrize(("sparse", "verdict"), [(0.801, "met"), (0.795, "missed")])
def test_the_goal_of_sparse_lora_is_met_where_nothing_is_lost(sparse: float, verdict: str):
    assert f": {verdict} in the mean. fedit-sparse, 20 times fewer" in lora_goal(table(sparse=sparse))


def test_goals_that_no_contender_is_small_enough_for_are_missed():
    rows = table()[:1]
    assert fed_sb_goal(rows).endswith("no contender sends so little.")
    assert lora_goal(rows).endswith("no contender sends so little.")


def test_contenders_that_failed_or_have_yet_to_run_are_said_and_not_drawn():
    seen = [*three(BASE, 0.5, 0.6, 0.7, up=8e5), outcome("fedit-sparse", failure="it diverged")]
    rows = traffic_of(PLAN, seen, BASE)
    assert [(row.contender, row.seeds, row.failed) for row in rows] == [(BASE, 3, 0), ("fedit-sparse", 0, 1)]
    assert (rows[1].times_fewer, rows[1].above_baseline, rows[1].on_front) == (None, None, False)
    text = traffic_summary(PLAN, rows, seen, BASE)
    assert "| fedit-sparse | 0.01 | – (1 failed) | – | – | – | – | never | – |" in text
    assert draw_traffic(rows, BASE).startswith(b"\x89PNG")
    assert as_csv(rows, Traffic).splitlines()[2].startswith("fedit-sparse,fedit,0.01,0,1,,,,,,,,,,False")


def test_without_the_baseline_there_is_no_table():
    assert traffic_of(PLAN, [outcome("fedit-sparse", accuracy=0.5)], BASE) == []


def test_the_summary_holds_the_table_the_target_and_the_goals():
    rows = table()
    text = traffic_summary(PLAN, rows, three(BASE, 0.79, 0.80, 0.81, up=8e5), BASE)
    assert "| fed-sb-sparse * | 0.01 | 80.0 % ± 1.0 | +0.0 ± 0.0 | 400 B | 2,000 x | 800 kB | 4 | 1.60 kB |" in text
    assert "target, 79.0 %" in text
    assert "after the rounds 2, 4" in text
    assert text.count("**Fed") == 2
