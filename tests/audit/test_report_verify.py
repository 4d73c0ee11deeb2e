"""Verification names whatever was changed in a report, be it a number, a word or its signature."""

import json
from collections.abc import Iterator
from copy import deepcopy
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from report_examples import client_run, example_run, measured

from fedtune.audit.ledger import Ledger, read_ledger
from fedtune.audit.report import verify as verification
from fedtune.audit.report.document import gather, make_report, schema
from fedtune.audit.report.facts import Facts
from fedtune.audit.report.signature import is_genuine
from fedtune.audit.report.verify import TOLERANCE, adapter_difference, compare, read_report, verify
from fedtune.audit.report.write import measured_in, write_report
from fedtune.audit.result import AuditResult
from fedtune.errors import LedgerBroken, PrivacyError

Path_ = tuple[str | int, ...]


def leaves(value: Any, where: Path_ = ()) -> Iterator[tuple[Path_, Any]]:
    """Every value in a JSON value that holds no other, with the way to it."""
    if isinstance(value, dict):
        for key, inner in value.items():
            yield from leaves(inner, (*where, key))
    elif isinstance(value, list):
        for place, inner in enumerate(value):
            yield from leaves(inner, (*where, place))
    else:
        yield where, value


def changed(report: dict[str, Any], where: Path_, value: Any) -> dict[str, Any]:
    """The report with another value in one place."""
    copy = deepcopy(report)
    at: Any = copy
    for part in where[:-1]:
        at = at[part]
    at[where[-1]] = value
    return copy


def dotted(where: Path_) -> str:
    return "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in where)[1:]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = example_run(tmp_path_factory.mktemp("runs") / "run", rounds=3)
    measured(folder)
    return folder


@pytest.fixture(scope="module")
def report(run: Path) -> dict[str, Any]:
    return json.loads(json.dumps(write_report(run).report))


@pytest.fixture(scope="module")
def facts(run: Path) -> Facts:
    return gather(read_ledger(run), measured_in(run))


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch, facts: Facts) -> None:
    """The recomputation once for many reports; one test does without."""
    monkeypatch.setattr(verification, "gather", lambda *_: facts)


def ledger_of(run: Path) -> Ledger:
    return read_ledger(run)


def test_a_report_is_what_its_ledger_gives(run: Path, report: dict[str, Any]) -> None:
    verdict = verify(report, ledger_of(run), measured_in(run))
    assert verdict.differences == ()
    assert verdict.notes == ()
    assert read_report(run / "audit-report.json") == report


def test_a_report_with_an_empirical_audit_keeps_the_schema_which_knows_all_of_it(report: dict[str, Any]) -> None:
    jsonschema.Draft202012Validator(schema()).validate(report)
    record = schema()["properties"]["figures"]["properties"]["empirical"]["oneOf"][1]["properties"]["record"]
    assert record["properties"].keys() == AuditResult.model_fields.keys()


@settings(max_examples=150, deadline=None)
@given(data=st.data())
def test_any_changed_number_is_named(data: st.DataObject, report: dict[str, Any], facts: Facts) -> None:
    numbers = [(w, v) for w, v in leaves(report["figures"]) if isinstance(v, int | float) and not isinstance(v, bool)]
    where, value = data.draw(st.sampled_from(numbers))
    other = data.draw(st.one_of(st.floats(allow_nan=False, allow_infinity=False), st.integers(-(10**6), 10**6)))
    tolerance = verification.SEARCHED.get(f"figures.{dotted(where)}", TOLERANCE)
    assume(abs(other - value) > 2 * tolerance * max(abs(value), abs(other)))
    found = list(compare(changed(report["figures"], where, other), verification.figures_of(facts), "figures"))
    assert [difference.where for difference in found] == [f"figures.{dotted(where)}"]


def test_no_number_may_be_off_by_a_hundred_thousandth_of_itself(report: dict[str, Any], facts: Facts) -> None:
    numbers = [(w, v) for w, v in leaves(report["figures"]) if isinstance(v, float) and v and w[-1] != "gdp_mu"]
    computed = verification.figures_of(facts)
    assert len(numbers) > 60
    for where, value in numbers:
        found = list(compare(changed(report["figures"], where, value * (1 + 1e-5)), computed, "figures"))
        assert [difference.where for difference in found] == [f"figures.{dotted(where)}"]


@pytest.mark.usefixtures("quick")
def test_any_other_value_in_any_place_is_named(run: Path, report: dict[str, Any]) -> None:
    ledger, empirical = ledger_of(run), measured_in(run)
    told = {key: report[key] for key in ("figures", "statements")}
    for where, value in leaves(told):
        other = (not value) if isinstance(value, bool) else f"{value} " if isinstance(value, str) else 77
        verdict = verify(changed(report, where, other), ledger, empirical)
        assert dotted(where) in {difference.where for difference in verdict.differences}, where
        assert "signature.value" in {difference.where for difference in verdict.differences}


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize("section", ["figures", "statements"])
def test_what_is_missing_or_more_is_named(run: Path, report: dict[str, Any], section: str) -> None:
    ledger, empirical = ledger_of(run), measured_in(run)
    for key in report[section]:
        less = deepcopy(report)
        del less[section][key]
        assert f"{section}.{key}" in {d.where for d in verify(less, ledger, empirical).differences}
    more = deepcopy(report)
    more[section]["more"] = 1
    assert f"{section}.more" in {d.where for d in verify(more, ledger, empirical).differences}
    assert verify({**report, section: None}, ledger, empirical).differences


@pytest.mark.usefixtures("quick")
def test_what_only_the_signature_covers_is_seen_by_it(run: Path, report: dict[str, Any]) -> None:
    verdict = verify(changed(report, ("made", "at"), "2030-01-01T00:00:00+00:00"), ledger_of(run), measured_in(run))
    assert [difference.where for difference in verdict.differences] == ["signature.value"]
    assert not is_genuine({**report, "signature": {"public_key": "zz", "value": 3}})
    assert not is_genuine({**report, "signature": {"public_key": "zz", "value": "zz"}})


@pytest.mark.usefixtures("quick")
def test_another_run_s_key_signs_no_report_of_this_one(tmp_path: Path, run: Path, report: dict[str, Any]) -> None:
    other = client_run(tmp_path / "other", rounds=1)
    with pytest.raises(LedgerBroken, match="not the key of the ledger"):
        make_report(gather(read_ledger(run)), other)
    foreign = make_report(gather(read_ledger(other)), other)
    verdict = verify({**report, "signature": foreign["signature"]}, ledger_of(run), measured_in(run))
    assert [difference.where for difference in verdict.differences] == ["signature.public_key"]


@pytest.mark.usefixtures("quick")
def test_a_report_without_a_signature_or_of_another_version_says_so(run: Path, report: dict[str, Any]) -> None:
    verdict = verify({**report, "signature": None}, ledger_of(run), measured_in(run))
    assert verdict.differences == ()
    assert "not signed" in verdict.notes[0]
    older = changed(report, ("made", "fedtune"), "0.0.1")
    older["statements"]["headline"] = "As an older version says it."
    verdict = verify({**older, "signature": None}, ledger_of(run), measured_in(run))
    assert verdict.differences == ()
    assert "written by fedtune 0.0.1" in verdict.notes[0]


def test_a_report_of_another_ledger_differs(tmp_path: Path, report: dict[str, Any]) -> None:
    other = example_run(tmp_path / "other", rounds=2)
    wrong = {difference.where for difference in verify(report, ledger_of(other)).differences}
    assert {"figures.ledger.head", "figures.spent.epsilon", "signature.public_key"} <= wrong


@pytest.mark.usefixtures("quick")
def test_an_empirical_audit_that_lies_elsewhere_is_taken_at_its_word_and_that_is_noted(
    run: Path, report: dict[str, Any]
) -> None:
    verdict = verify(report, ledger_of(run))
    assert verdict.differences == ()
    assert "taken at its word" in verdict.notes[0]


def test_without_the_key_a_report_is_written_unsigned(tmp_path: Path) -> None:
    run = client_run(tmp_path / "run", rounds=1)
    (run / "ledger.key").unlink()
    assert write_report(run).report["signature"] is None


def test_an_audit_that_refutes_the_claim_fails_the_report(tmp_path: Path) -> None:
    run = client_run(tmp_path / "run", rounds=1)
    measured(run, bound=40.0)
    refuted = gather(read_ledger(run), measured_in(run))
    assert "ε ≥ 40" in next(check.found for check in refuted.checks if check.id == "measured")
    assert not refuted.is_sound
    measured(run, recipe_fingerprint="0" * 16)
    another = gather(read_ledger(run), measured_in(run))
    assert "another recipe" in next(check.found for check in another.checks if check.id == "measured")


def test_an_adapter_that_is_not_the_one_that_the_ledger_ends_with_is_named(tmp_path: Path) -> None:
    run = client_run(tmp_path / "run", rounds=1)
    assert adapter_difference(read_ledger(run), run) is None
    (run / "adapter").mkdir()
    (run / "adapter" / "adapter_config.json").write_text("{}")
    difference = adapter_difference(read_ledger(run), run)
    assert difference is not None
    assert difference.computed == "ad" * 32


@settings(max_examples=60, deadline=None)
@given(content=st.one_of(st.binary(max_size=60), st.sampled_from([b"[]", b"{}", b'{"format": NaN}', b"[" * 10_000])))
def test_what_is_no_report_is_one_sentence(tmp_path_factory: pytest.TempPathFactory, content: bytes) -> None:
    path = tmp_path_factory.mktemp("no-report") / "audit-report.json"
    path.write_bytes(content)
    with pytest.raises(PrivacyError, match="is no audit report"):
        read_report(path)
