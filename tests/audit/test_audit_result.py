"""`audit.json`: what counts against a claim, and the schema that it is published with."""

import json
from pathlib import Path

import pytest
from pydantic import ValidationError

import fedtune.audit.result
from fedtune.audit.estimators import Bound, Estimate
from fedtune.audit.result import AuditResult, BoundRecord, CheckRecord, ClaimRecord, EstimateRecord


def result(**changes) -> AuditResult:
    """A record that is passed, with changes."""
    bound = BoundRecord.of(Bound(0.5, 1e-5, 0.99, "one-run"), "white-box")
    values = {
        "run": "0" * 32,
        "recipe_fingerprint": "0" * 16,
        "created": "2026-01-01T00:00:00+00:00",
        "unit": "example",
        "relation": "add-or-remove-one",
        "delta": 1e-5,
        "claimed_epsilon": 1.0,
        "canaries": 10,
        "inserted": 5,
        "confidence": 0.95,
        "bounds": (bound,),
        "seconds": 1.0,
    }
    return AuditResult(**(values | changes))


def test_a_bound_below_the_claim_is_passed_and_one_above_is_not():
    assert result().passed
    assert result().lower_bound == 0.5
    broken = result(claimed_epsilon=0.4)
    assert not broken.passed
    assert "ε ≥ 0.500" in broken.against[0]


def test_only_what_holds_for_any_mechanism_decides():
    loose = BoundRecord.of(Bound(9.0, 1e-5, 0.99, "clopper-pearson", "independent scores"), "black-box")
    family = BoundRecord.of(Bound(9.0, 1e-5, 0.99, "one-run-f-dp-gaussian", "gaussian"), "black-box")
    estimate = EstimateRecord.of(Estimate(9.0, 1e-5, "one-shot-cosine", "normal"), "black-box")
    assert result(bounds=(loose, family), estimates=(estimate,)).passed
    assert result(bounds=(loose, family)).lower_bound == 0.0


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"claims": (ClaimRecord(attack="black-box", p_value=1e-6, refuted=True),)}, "privacy curve"),
        ({"checks": (CheckRecord(name="clip", holds=False, found="too much"),)}, "clip: too much"),
    ],
)
def test_curves_and_direct_tests_decide_too(changes, words):
    (sentence,) = result(**changes).against
    assert words in sentence


def test_an_infinite_estimate_is_no_number_and_no_bound_may_be_infinite():
    assert EstimateRecord.of(Estimate(float("inf"), 1e-5, "one-shot-cosine", "normal"), "black-box").epsilon is None
    with pytest.raises(ValidationError):
        BoundRecord.of(Bound(float("inf"), 1e-5, 0.99, "one-run"), "white-box")


def test_the_published_schema_is_the_records_own(tmp_path):
    published = Path(fedtune.audit.result.__file__).with_name("audit-schema.json")
    assert json.loads(published.read_text(encoding="utf-8")) == AuditResult.model_json_schema()
    result().write(tmp_path / "audit.json")
    assert AuditResult.read(tmp_path / "audit.json") == result()
