"""What a study makes of its outcomes: rates, rows, intervals, and what it says where a figure is missing."""

import math
import statistics

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from fedtune.errors import RunError
from simulations.studies.choose import choose_rates
from simulations.studies.compare import T95, Difference, differences
from simulations.studies.plan import Contender, Plan
from simulations.studies.progress import line
from simulations.studies.results import as_csv, rows_of
from simulations.studies.show import cells_of, spread_text
from simulations.studies.summary import summary
from tests.simulations.study_worlds import outcome, tried


def plan_of(*methods: str, rates: tuple[float, ...] = (1e-3, 1e-2, 1e-1)) -> Plan:
    return Plan(
        form="tiny",
        base="",
        test_rows=10,
        contenders={method: Contender(settings=(), rates=rates) for method in methods},
        splits={"iid": (), "skewed": ()},
        seeds=(1, 2, 3),
        tuning_split="iid",
        tuning_seed=9,
    )


@given(st.lists(st.tuples(st.floats(0, 1), st.floats(0, 9)), min_size=1, max_size=6))
def test_the_rate_is_the_most_accurate_and_of_equals_the_one_of_lowest_loss(scores: list[tuple[float, float]]):
    rates = [10.0**-position for position in range(len(scores))]
    found = choose_rates(
        plan_of("fedit"),
        [tried("fedit", lr, local_accuracy=a, local_loss=loss) for lr, (a, loss) in zip(rates, scores, strict=True)],
    )
    accuracy, loss = scores[rates.index(found["fedit"])]
    assert accuracy == max(a for a, _ in scores)
    assert loss == min(seen for a, seen in scores if a == accuracy)


def test_a_failed_or_diverged_rate_does_not_win_and_reported_cells_do_not_count():
    found = choose_rates(
        plan_of("fedit"),
        [
            tried("fedit", 1e-3, local_accuracy=0.5, local_loss=math.nan),
            tried("fedit", 1e-2, local_accuracy=0.5, local_loss=2.0),
            tried("fedit", 1e-1, failure="it diverged"),
            outcome("fedit", lr=1.0, local_accuracy=0.9, local_loss=0.1),
        ],
    )
    assert found == {"fedit": 1e-2}


def test_a_method_that_failed_at_every_rate_is_one_sentence():
    with pytest.raises(RunError, match="flora learned at none of its learning rates: it diverged"):
        choose_rates(plan_of("flora"), [tried("flora", 1e-3, failure="it diverged")])


def test_rows_hold_mean_sample_deviation_and_the_worst_round():
    accuracies = (0.5, 0.6, 0.8)
    rows = rows_of(
        plan_of("fedit", "fedsa-lora"),
        [
            *(outcome("fedit", seed=s, accuracy=a, product_errors=(0.1 * s, 0.05), bytes_up=100.0, bytes_down=200.0)
              for s, a in enumerate(accuracies, start=1)),
            outcome("fedsa-lora", "skewed", local_accuracy=0.7, left_out=2),
            outcome("fedsa-lora", "skewed", seed=2, failure="it diverged"),
            tried("fedit", 1e-2, accuracy=0.0),
        ],
    )  # fmt: skip
    fedit, fedsa = rows
    assert fedit.accuracy_mean == pytest.approx(statistics.fmean(accuracies))
    assert fedit.accuracy_std == pytest.approx(math.sqrt(sum((a - 1.9 / 3) ** 2 for a in accuracies) / 2))
    assert (fedit.product_error_max, fedit.product_error_mean) == (pytest.approx(0.3), pytest.approx(0.125))
    assert (fedit.seeds, fedit.failed, fedit.bytes_up, fedit.bytes_down) == (3, 0, 100.0, 200.0)
    assert (fedsa.accuracy_mean, fedsa.local_accuracy_mean, fedsa.product_error_max) == (None, 0.7, None)
    assert (fedsa.seeds, fedsa.failed, fedsa.left_out, fedsa.is_exact) == (1, 1, 2, None)
    heading, first, second = as_csv(rows).splitlines()
    assert heading.startswith("method,split,lr,seeds,failed,accuracy_mean,accuracy_std")
    assert first.startswith("fedit,iid,0.01,3,0,0.633333,")
    assert second.startswith("fedsa-lora,skewed,0.01,1,1,,,0.7,,,")


def test_words_say_what_is_not_known():
    (row,) = rows_of(plan_of("fedsa-lora"), [outcome("fedsa-lora", local_accuracy=0.7, bytes_up=1234.0)])
    assert cells_of(row) == ("fedsa-lora", "0.01", "–", "70.0 %", "–", "1.23 kB", "0 B")
    assert spread_text(0.712, 0.013) == "71.2 % ± 1.3"
    assert "failed: it diverged" in line(outcome("flora", failure="it diverged"))


@pytest.mark.parametrize("freedom", T95)
def test_quantiles_are_students(freedom: int):
    assert T95[freedom] == pytest.approx(stats.t.ppf(0.975, freedom), abs=1e-3)


def test_differences_are_paired_by_seed_and_over_the_seeds_of_both():
    here = {1: 0.62, 2: 0.70, 3: 0.66}
    there = {1: 0.55, 2: 0.65, 3: 0.58, 4: 0.10}
    (found,) = differences(
        [
            *(outcome("fed-sb", seed=s, accuracy=a) for s, a in here.items()),
            *(outcome("fedit", seed=s, accuracy=a) for s, a in there.items()),
            outcome("fed-sb", "skewed", accuracy=0.0),
        ],
        ["iid"],
        "fedit",
        ["fedit", "fed-sb"],
    )
    gaps = [here[s] - there[s] for s in here]
    low, high = stats.t.interval(0.95, 2, loc=statistics.fmean(gaps), scale=stats.sem(gaps))
    assert found.mean == pytest.approx(statistics.fmean(gaps))
    assert found.half_width == pytest.approx((high - low) / 2, rel=1e-3)
    assert found.is_clear is bool(low > 0)


def test_over_several_splits_each_split_and_seed_is_a_pair():
    accuracies = {
        ("iid", 1): (0.6, 0.5),
        ("iid", 2): (0.7, 0.55),
        ("skewed", 1): (0.4, 0.38),
        ("skewed", 2): (0.3, 0.2),
    }
    outcomes = [
        outcome(method, split, seed=seed, accuracy=pair[position])
        for (split, seed), pair in accuracies.items()
        for position, method in enumerate(("flora", "fedit"))
    ]
    (found,) = differences(outcomes, ["iid", "skewed"], "fedit", ["fedit", "flora"])
    gaps = [one - other for one, other in accuracies.values()]
    low, high = stats.t.interval(0.95, 3, loc=statistics.fmean(gaps), scale=stats.sem(gaps))
    assert (found.mean, found.half_width) == (
        pytest.approx(statistics.fmean(gaps)),
        pytest.approx((high - low) / 2, 1e-3),
    )


def test_a_method_without_a_global_state_is_compared_on_the_clients_rows():
    (found,) = differences(
        [outcome("fedsa-lora", local_accuracy=0.9), outcome("fedit", accuracy=0.1, local_accuracy=0.6)],
        ["iid"],
        "fedit",
        ["fedit", "fedsa-lora"],
    )
    assert found.mean == pytest.approx(0.3)
    assert found.in_words() == "fedsa-lora: +30.0, one pair"


@pytest.mark.parametrize(
    ("mean", "half", "words"),
    [(0.02, 0.03, "within the noise"), (0.04, 0.03, "clearly above"), (-0.04, 0.03, "clearly below")],
)
def test_a_gain_is_only_called_one_where_the_interval_leaves_zero_out(mean: float, half: float, words: str):
    assert Difference("flora", mean, half).in_words().endswith(words)


def test_the_summary_names_what_is_exact_what_is_not_and_rates_at_the_edge():
    plan = plan_of("fedit", "fed-sb", "fedsa-lora")
    outcomes = [
        outcome("fedit", lr=1e-2, accuracy=0.5, product_errors=(0.3,)),
        outcome("fed-sb", lr=1e-1, accuracy=0.5, product_errors=(3e-8,)),
        outcome("fedsa-lora", lr=1e-3, local_accuracy=0.5),
    ]
    text = summary(plan, rows_of(plan, outcomes), outcomes)
    assert "in every round: fed-sb." in text
    assert "any round: fedit (3.0e-01)." in text
    assert "does not see the whole product: fedsa-lora." in text
    assert "fed-sb (0.1), fedsa-lora (0.001)." in text
    assert "- fed-sb: +0.0, one pair" in text
    assert "**skewed**\n\n- nothing to compare" in text
