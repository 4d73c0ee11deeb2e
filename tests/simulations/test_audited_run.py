"""An audited simulation from one end to the other: real training, real noise, canaries in it, and the record of it."""

import json
from pathlib import Path

import jsonschema
import pytest

from fedtune.audit.result import AuditResult
from fedtune.errors import PrivacyError, RunError
from fedtune.runs.folder import RunFolder
from simulations.audit.estimate import seconds_expected
from simulations.audit.run import FOR_CHECKS, Prepared, run_audit
from simulations.audit.setting import audited
from tests.federation import recipe_for
from tests.worlds import write_rows

EXAMPLE = (
    'privacy.unit="example"',
    "privacy.delta=1e-5",
    "privacy.noise_multiplier=1.0",
    "privacy.sampling_rate=0.1",
    "training.steps=2",
    "federation.rounds=2",
)
CLIENT = (
    'privacy.unit="client"',
    "privacy.delta=1e-3",
    "privacy.noise_multiplier=1.0",
    "privacy.sampling_rate=0.5",
    "privacy.population=4",
    "federation.rounds=4",
    "training.steps=1",
)


def prepare(model: Path, folder: Path, *lines: str, canaries: int = 24) -> Prepared:
    """An audit of a small recipe."""
    return Prepared.of(recipe_for(model, write_rows(folder / "rows.jsonl", 120), folder / "runs", *lines), canaries)


@pytest.fixture(scope="module")
def example(tiny_bert_folder, tmp_path_factory):
    return run_audit(prepare(tiny_bert_folder, tmp_path_factory.mktemp("example"), *EXAMPLE))


@pytest.fixture(scope="module")
def client(tiny_bert_folder, tmp_path_factory):
    return run_audit(prepare(tiny_bert_folder, tmp_path_factory.mktemp("client"), *CLIENT, canaries=40))


@pytest.mark.parametrize("unit", ["example", "client"])
def test_a_sound_run_passes_its_audit(unit, request):
    """Its direct tests, too, unless chance went far beyond what it may."""
    result, _ = request.getfixturevalue(unit)
    assert result.unit == unit
    assert result.lower_bound <= result.claimed_epsilon
    assert not any(claim.refuted for claim in result.claims)
    assert all(check.p_value > 1e-7 if check.p_value is not None else check.holds for check in result.checks)


def test_the_clients_own_step_is_tested_directly(example):
    names = {check.name for check in example[0].checks}
    assert {"noise scale", "noise distribution", "fresh noise", "clip", "sample sizes"} <= names


def test_what_the_coordinator_added_to_the_sum_is_tested_directly(client):
    checks = {check.name: check for check in client[0].checks}
    assert {"noise scale", "noise distribution", "fresh noise", "sampling rate"} <= checks.keys()
    assert "where the plan says 1 " in checks["noise scale"].found


def test_only_bounds_that_hold_for_any_mechanism_decide_and_all_of_them_together(client):
    result, _ = client
    deciding = [bound for bound in result.bounds if bound.decides]
    assert {bound.attack for bound in deciding} == {"black-box", "white-box"}
    assert all(bound.assumption == "none" for bound in deciding)
    (alpha,) = {round(1 - bound.confidence, 9) for bound in deciding}
    errors = alpha * (len(deciding) + len(result.claims)) + FOR_CHECKS * (1 - result.confidence)
    assert errors == pytest.approx(1 - result.confidence, abs=1e-6)
    assert any(bound.method.startswith("one-shot-cosine") for bound in result.bounds)
    assert [estimate.method for estimate in result.estimates] == ["one-shot-cosine"]


@pytest.mark.parametrize("unit", ["example", "client"])
def test_the_record_lies_in_the_run_folder_and_fits_its_schema(unit, request):
    result, folder = request.getfixturevalue(unit)
    assert folder.name.endswith("-audit")
    assert AuditResult.read(folder / "audit.json") == result
    assert result.run == RunFolder.open(folder).info.id
    jsonschema.validate(json.loads((folder / "audit.json").read_text()), AuditResult.model_json_schema())
    assert 0 < result.inserted < result.canaries


def test_the_run_keeps_every_state_that_the_attack_reads(client):
    _, folder = client
    assert RunFolder.open(folder).checkpoints.rounds() == (0, 1, 2, 3, 4)


def test_canary_clients_are_enrolled_and_change_nothing_that_is_claimed(tiny_bert_folder, tmp_path):
    recipe = recipe_for(tiny_bert_folder, write_rows(tmp_path / "rows.jsonl", 40), tmp_path, *CLIENT)
    changed = audited(recipe, 30)
    assert changed.privacy.population == 34
    assert changed.privacy.model_copy(update={"population": 4}) == recipe.privacy
    assert changed.run.name == f"{recipe.run.name}-audit"


def test_there_is_an_estimate_of_the_time(tiny_bert_folder, tmp_path):
    few = prepare(tiny_bert_folder, tmp_path, *EXAMPLE, canaries=4)
    assert seconds_expected(few, 1) > 0


@pytest.mark.parametrize(
    ("lines", "words"),
    [
        ((), "nothing that could be audited"),
        (
            (
                'privacy.unit="client"',
                "privacy.delta=1e-3",
                "privacy.noise_multiplier=5.0",
                'privacy.noise="client"',
            ),
            "coordinator itself",
        ),
    ],
)
def test_what_cannot_be_audited_is_refused_with_a_sentence(tiny_bert_folder, tmp_path, lines, words):
    with pytest.raises(PrivacyError, match=words):
        prepare(tiny_bert_folder, tmp_path, *lines)


def test_too_many_canaries_for_the_rows_are_refused(tiny_bert_folder, tmp_path):
    with pytest.raises(PrivacyError, match="too many"):
        prepare(tiny_bert_folder, tmp_path, *EXAMPLE, canaries=400)


def test_a_damaged_record_is_refused(tmp_path):
    (tmp_path / "audit.json").write_text('{"format": "fedtune audit 1"}')
    with pytest.raises(RunError, match="audit run"):
        AuditResult.read(tmp_path / "audit.json")
    with pytest.raises(RunError):
        AuditResult.read(tmp_path / "nowhere.json")
