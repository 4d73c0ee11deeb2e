"""The report's figures are the ledger's: recomputed here from its raw lines, by another library, and fault by fault."""

import json
from collections import Counter, defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from dp_accounting.pld import privacy_loss_distribution
from report_examples import RUNS, Run, client_recipe, client_run, example_recipe, example_run, make_recipe, pseudonym

from fedtune.audit.ledger import Drawn, read_ledger
from fedtune.audit.report.checks import promised_plan, run_checks
from fedtune.audit.report.document import gather, make_report, schema
from fedtune.audit.report.facts import Facts
from fedtune.audit.report.history import read_history
from fedtune.audit.report.loss import dearest, epsilon_of_all
from fedtune.audit.report.spending import spending_of
from fedtune.errors import LedgerBroken, PrivacyError
from fedtune.privacy.accounting import compose
from fedtune.privacy.events import Event
from fedtune.recipe import FederationSection, TrainingSection

Key = tuple[float, float]


def raw_counts(run: Path) -> tuple[Counter[Key], dict[str, Counter[Key]]]:
    """What everybody and each participant is charged, read off the lines of the file with nothing of fedtune."""
    everyone: Counter[Key] = Counter()
    each: dict[str, Counter[Key]] = defaultdict(Counter)
    for line in (run / "ledger.jsonl").read_text().splitlines():
        entry = json.loads(line)
        if entry["kind"] != "reserve":
            continue
        for event in entry["body"]["events"]:
            key = (event["noise_multiplier"], event["sampling_rate"])
            for charged in [each[name] for name in entry["body"]["participants"]] or [everyone]:
                charged[key] += event["count"]
    return everyone, dict(each)


def epsilon_by_google(counts: Counter[Key], delta: float) -> float:
    """ε by dp-accounting's own privacy loss distributions, pessimistic, on a grid of 1e-3."""
    total = privacy_loss_distribution.identity(1e-3)
    for (sigma, rate), count in counts.items():
        one = privacy_loss_distribution.from_gaussian_mechanism(
            sigma, sampling_prob=rate, value_discretization_interval=1e-3
        )
        total = total.compose(one.self_compose(count))
    return float(total.get_epsilon_for_delta(delta))


@pytest.fixture(scope="module", params=sorted(RUNS))
def told(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    """A run folder of each kind with its report."""
    run = RUNS[request.param](tmp_path_factory.mktemp("runs") / request.param)
    return run, make_report(gather(read_ledger(run)), run)


def facts_of(run: Path) -> Facts:
    return gather(read_ledger(run))


def failed(run: Run) -> dict[str, str]:
    """The checks that fail, with what was found."""
    history = read_history(read_ledger(run.folder))
    plan = promised_plan(history)
    spent, planned = (
        epsilon_of_all(events, plan.delta)
        for events in (dearest(spending_of(history).compositions(), plan.delta), plan.planned())
    )
    checks = run_checks(history, plan, spent, planned, None)
    return {check.id: check.found for check in checks if not check.holds}


def test_a_report_keeps_its_schema_and_a_sound_run_fails_no_check(told: tuple[Path, dict[str, Any]]) -> None:
    _, report = told
    jsonschema.Draft202012Validator(schema()).validate(json.loads(json.dumps(report)))
    assert all(check["holds"] for check in report["figures"]["checks"])


def test_the_schema_is_one_and_refuses_what_is_missing_or_more(told: tuple[Path, dict[str, Any]]) -> None:
    validator = jsonschema.Draft202012Validator(schema())
    validator.check_schema(schema())
    report = json.loads(json.dumps(told[1]))
    del report["figures"]["spent"]["epsilon"]
    assert not validator.is_valid(report)
    report["figures"]["spent"] |= {"epsilon": 1.0, "epsilon_before": 1.0}
    assert not validator.is_valid(report)


def test_every_participant_s_epsilon_is_that_of_the_raw_lines_of_the_ledger(told: tuple[Path, dict[str, Any]]) -> None:
    run, report = told
    delta, composition = report["figures"]["spent"]["delta"], report["figures"]["composition"]
    everyone, each = raw_counts(run)
    expected = {name: everyone + own for name, own in each.items()} or {"": everyone}
    said = {p["pseudonym"]: composition["groups"][p["group"]] for p in composition["participants"]}
    dearest = 0.0
    for name, counts in expected.items():
        group = said.get(name, composition["groups"][0])
        assert {(e["noise_multiplier"], e["sampling_rate"]): e["count"] for e in group["events"]} == dict(counts)
        assert group["epsilon"] == pytest.approx(epsilon_by_google(counts, delta), rel=2e-3)
        dearest = max(dearest, group["epsilon"])
    assert report["figures"]["spent"]["epsilon"] == pytest.approx(dearest, rel=1e-9)


def test_the_figures_are_those_of_the_accountant_to_1e_6(told: tuple[Path, dict[str, Any]]) -> None:
    run, report = told
    everyone, each = raw_counts(run)
    totals = [everyone + own for own in each.values()] or [everyone]
    losses = [
        compose([Event(noise_multiplier=s, sampling_rate=q, count=n) for (s, q), n in counts.items()])
        for counts in totals
    ]
    spent = report["figures"]["spent"]
    worst = max(losses, key=lambda loss: loss.epsilon(spent["delta"]))
    assert spent["epsilon"] == pytest.approx(worst.epsilon(spent["delta"]), rel=1e-6)
    assert spent["advantage"] == pytest.approx(worst.delta(0.0), rel=1e-6)
    for point in spent["curve"]:
        assert point["epsilon"] == pytest.approx(worst.epsilon(point["delta"]), rel=1e-6)


def test_other_accountants_and_attacks_stand_in_their_right_order(told: tuple[Path, dict[str, Any]]) -> None:
    spent = told[1]["figures"]["spent"]
    assert spent["epsilon"] < spent["beside"]["prv"] < spent["beside"]["rdp"]
    everyone, each = raw_counts(told[0])
    totals = [everyone + own for own in each.values()] or [everyone]
    google = max(epsilon_by_google(counts, spent["delta"]) for counts in totals)
    assert spent["beside"]["dp-accounting"] == pytest.approx(google, rel=1e-4)
    assert spent["beside"]["dp-accounting"] == pytest.approx(spent["epsilon"], rel=2e-3)
    epsilons = [point["epsilon"] for point in spent["curve"]]
    assert epsilons == sorted(epsilons)
    assert [point["delta"] for point in spent["curve"]] == sorted((p["delta"] for p in spent["curve"]), reverse=True)
    for row in spent["attacks"]:
        assert row["false_positive_rate"] < row["true_positive_rate"] <= row["false_positive_rate"] + spent["advantage"]


def test_a_lost_round_is_in_epsilon_and_among_the_lost(tmp_path: Path) -> None:
    lost, whole = Run(tmp_path / "lost", example_recipe()), Run(tmp_path / "whole", example_recipe())
    for run in (lost, whole):
        run.commit(run.reserve(1, clients=[1]), {1: "ok"})
    lost.abort(lost.reserve(2, clients=[1]), "stopped")
    with_it, without = facts_of(lost.folder), facts_of(whole.folder)
    assert (with_it.loss.epsilon or 0) > (without.loss.epsilon or 0) * 1.1
    rounds = make_report(with_it, lost.folder)["figures"]["rounds"]
    assert [(c["round"], c["ending"], c["reason"]) for c in rounds["lost"]] == [(2, "aborted", "stopped")]
    assert (rounds["charged"], rounds["committed"]) == (2, 1)


def test_a_charge_that_never_ended_is_spent_and_said(tmp_path: Path) -> None:
    run = Run(tmp_path / "open", example_recipe())
    run.reserve(1, clients=[1, 2])
    report = make_report(facts_of(run.folder), run.folder)
    assert report["figures"]["rounds"]["lost"][0]["ending"] == "open"
    assert report["figures"]["spent"]["epsilon"] > 0
    assert not report["figures"]["run"]["finished"]


def test_a_run_that_has_spent_nothing_has_a_report(tmp_path: Path) -> None:
    run = Run(tmp_path / "fresh", client_recipe())
    report = make_report(facts_of(run.folder), run.folder)
    jsonschema.Draft202012Validator(schema()).validate(json.loads(json.dumps(report)))
    assert report["figures"]["spent"]["epsilon"] == 0
    assert report["figures"]["spent"]["advantage"] == 0


def test_noise_that_bounds_nothing_is_said_to_bound_nothing(tmp_path: Path) -> None:
    run = Run(tmp_path / "bare", example_recipe(noise_multiplier=0.002, sampling_rate=1.0))
    run.commit(run.reserve(1, clients=[1]), {1: "ok"})
    report = make_report(facts_of(run.folder), run.folder)
    jsonschema.Draft202012Validator(schema()).validate(json.loads(json.dumps(report)))
    epsilon = report["figures"]["spent"]["epsilon"]
    assert epsilon is None or epsilon > 1e5
    assert report["figures"]["spent"]["attacks"][1]["true_positive_rate"] == pytest.approx(1)


def test_who_was_drawn_is_never_in_the_report_where_privacy_rests_on_it(tmp_path: Path) -> None:
    report = make_report(facts_of(client_run(tmp_path / "drawn")), tmp_path / "drawn")
    assert report["figures"]["composition"]["participants"] == []
    assert not report["figures"]["composition"]["named"]
    assert report["figures"]["composition"]["groups"][0]["participants"] == 0
    assert len(report["figures"]["sampling"]["draws"]) == 6


def test_participants_are_counted_round_by_round(tmp_path: Path) -> None:
    figures = make_report(facts_of(example_run(tmp_path / "run")), tmp_path / "run")["figures"]
    third = next(p for p in figures["composition"]["participants"] if p["pseudonym"] == pseudonym(1))
    # Asked in rounds 1, 3 (twice, of which once in vain), 4 and 6; late in round 1.
    assert (third["asked"], third["counted"], third["aborted"]) == (5, 3, 1)


# Each check sees its fault, and is the one that does.


def test_a_start_from_private_rows_is_seen(tmp_path: Path) -> None:
    recipe = example_recipe()
    private = recipe.model_copy(update={"adapter": recipe.adapter.model_copy(update={"init": "private-gradient"})})
    run = Run(tmp_path / "run", private)
    assert "outside the privacy accountant" in failed(run)["recipe"]
    report = make_report(facts_of(run.folder), run.folder)
    assert report["figures"]["released"][0] == {"what": "start", "times": 1, "cover": "not-covered"}
    assert "vouches for no guarantee" in report["statements"]["headline"]


def test_a_charge_below_the_plan_is_seen(tmp_path: Path) -> None:
    run = Run(tmp_path / "run", example_recipe())
    less = (Event(noise_multiplier=5.0, sampling_rate=0.02, count=10),)
    run.commit(run.reserve(1, clients=[1], events=less), {1: "ok"})
    assert "entry 1 of the ledger" in failed(run)["plan"]


def test_a_plan_that_is_not_the_recipe_s_is_seen(tmp_path: Path) -> None:
    plan = json.loads(json.dumps(Run(tmp_path / "other", example_recipe(noise_multiplier=3.0)).plan.as_json()))
    assert "plan" in failed(Run(tmp_path / "run", example_recipe(), plan=plan))


def test_another_fingerprint_is_seen(tmp_path: Path) -> None:
    assert set(failed(Run(tmp_path / "run", example_recipe(), recipe_fingerprint="0" * 16))) == {"fingerprint"}


def test_a_charge_to_nobody_by_name_is_seen(tmp_path: Path) -> None:
    run = Run(tmp_path / "run", example_recipe())
    run.commit(run.reserve(1))
    assert "nobody by name" in failed(run)["charged"]


@pytest.mark.parametrize(
    ("drawn", "found"),
    [
        (None, "holds no draw"),
        (Drawn(population=1000, sampling_rate=0.2, commitments=("0" * 64,)), "drew 0.2 of 1000"),
        (Drawn(population=99, sampling_rate=0.1, commitments=("0" * 64,)), "drew 0.1 of 99"),
        (Drawn(population=1000, sampling_rate=0.1), "no commitment"),
    ],
)
def test_amplification_without_its_draw_is_seen(tmp_path: Path, drawn: Drawn | None, found: str) -> None:
    run = Run(tmp_path / "run", client_recipe())
    run.commit(run.reserve(1, drawn=drawn))
    assert found in failed(run)["drawn"]


def test_a_run_over_its_budget_is_seen_and_one_without_a_budget_has_none(tmp_path: Path) -> None:
    for name, budget in (("tight", 0.5), ("free", None)):
        run = Run(tmp_path / name, example_recipe(epsilon=budget))
        for round_ in (1, 2):
            run.commit(run.reserve(round_, clients=[1]), {1: "ok"})
        assert ("budget" in failed(run)) == (name == "tight")


def banded(tmp_path: Path, *, population: int = 6) -> Run:
    recipe = make_recipe(
        training=TrainingSection(steps=10),
        unit="client",
        mechanism="banded",
        min_separation=3,
        noise_multiplier=2.0,
        population=population,
    )
    return Run(
        tmp_path / "run", recipe.model_copy(update={"federation": FederationSection(rounds=6, clients_per_round=2)})
    )


def asked(*clients: int) -> Drawn:
    return Drawn(population=6, sampling_rate=1.0, asked=tuple(pseudonym(client) for client in clients))


def test_rounds_of_a_client_that_lie_too_close_are_seen(tmp_path: Path) -> None:
    run = banded(tmp_path)
    run.commit(run.reserve(0, "run"))
    for round_, clients in ((1, (1, 2)), (2, (2, 3))):
        run.commit(run.reserve(round_, drawn=asked(*clients)))
    assert "again within 3 rounds" in failed(run)["separation"]


def test_more_clients_than_the_population_are_seen(tmp_path: Path) -> None:
    run = banded(tmp_path)
    run.commit(run.reserve(0, "run"))
    run.commit(run.reserve(1, drawn=asked(*range(7))))
    assert "7 clients took part" in failed(run)["population"]


def test_a_release_as_a_whole_that_nobody_paid_for_is_seen(tmp_path: Path) -> None:
    run = banded(tmp_path)
    run.commit(run.reserve(1, drawn=asked(1, 2)))
    assert "no run was charged" in failed(run)["ahead"]


# What no report is made of.


def cut(content: bytes) -> bytes:
    return content[:-20]


def flip(content: bytes) -> bytes:
    return content.replace(b'"round":2', b'"round":1', 1)


@pytest.mark.parametrize("damage", [cut, flip])
def test_a_damaged_ledger_has_no_report(tmp_path: Path, damage: Callable[[bytes], bytes]) -> None:
    path = example_run(tmp_path / "run") / "ledger.jsonl"
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(LedgerBroken):
        facts_of(tmp_path / "run")


def test_a_recipe_of_another_version_is_one_sentence(tmp_path: Path) -> None:
    recipe = example_recipe().model_dump(mode="json") | {"later": 1}
    with pytest.raises(PrivacyError, match="the fedtune that wrote it"):
        facts_of(Run(tmp_path / "run", example_recipe(), recipe_values=recipe).folder)
