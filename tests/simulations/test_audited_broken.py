"""The platform's own private training, broken on purpose: `fedtune audit run` finds each fault and says so."""

import pytest
from click.testing import CliRunner

import fedtune.aggregation.private
import fedtune.training.private_mechanism
import server.private
from fedtune.audit.checks.faults import NoNoise, ReusedNoise, ShuffledRows
from fedtune.privacy.clipping import clipped_sum
from fedtune.privacy.updates import ClippedSum
from fedtune.recipe.dump import dump
from simulations.audit.cli import run
from simulations.audit.run import Prepared, run_audit
from tests.federation import recipe_for
from tests.worlds import write_rows

EXAMPLE = (
    'privacy.unit="example"',
    "privacy.delta=1e-5",
    "privacy.noise_multiplier=2.0",
    "privacy.sampling_rate=0.3",
    "privacy.clip=0.1",
    "training.steps=2",
    "federation.rounds=1",
)
CLIENT = (
    'privacy.unit="client"',
    "privacy.delta=1e-5",
    "privacy.noise_multiplier=4.0",
    "privacy.sampling_rate=0.5",
    "privacy.population=4",
    "adapter.rank=16",
    "federation.rounds=6",
    "training.steps=1",
)


def recipe(model, folder, lines):
    """One of the two recipes above."""
    return recipe_for(model, write_rows(folder / "rows.jsonl", 110), folder / "runs", *lines)


def failures(model, folder, lines, canaries):
    """The direct tests that fail, and the whole record."""
    result, _ = run_audit(Prepared.of(recipe(model, folder, lines), canaries))
    assert result.passed == (not result.against)
    return {check.name for check in result.checks if not check.holds}, result


@pytest.mark.parametrize(
    ("place", "part", "seen"),
    [
        ("SecureNoise", NoNoise, "noise scale"),
        ("SecureNoise", ReusedNoise, "fresh noise"),
        ("PoissonRows", ShuffledRows, "sample sizes"),
        ("clipped_sum", lambda found, clip, how: clipped_sum(found, 2 * clip, how), "clip"),
    ],
    ids=["noise forgotten", "noise seed reused", "batch not Poisson", "clip off by a factor of two"],
)
def test_a_broken_step_of_the_client_is_found(tiny_bert_folder, tmp_path, monkeypatch, place, part, seen):
    monkeypatch.setattr(fedtune.training.private_mechanism, place, part)
    found, result = failures(tiny_bert_folder, tmp_path, EXAMPLE, 8)
    assert seen in found
    assert not result.passed


def test_noise_that_the_coordinator_forgets_is_found_by_the_attack_alone(tiny_bert_folder, tmp_path, monkeypatch):
    monkeypatch.setattr(server.private, "SecureNoise", NoNoise)
    found, result = failures(tiny_bert_folder, tmp_path, CLIENT, 150)
    assert "noise scale" in found
    assert any(claim.refuted for claim in result.claims)
    assert result.lower_bound > 1.0


@pytest.mark.parametrize("fault", ["seed reused", "clip off by a factor of two"])
def test_other_faults_of_the_coordinator_are_found_by_what_it_added(tiny_bert_folder, tmp_path, monkeypatch, fault):
    if fault == "seed reused":
        monkeypatch.setattr(server.private, "SecureNoise", ReusedNoise)
    else:

        class Twice(ClippedSum):
            def __init__(self, shapes, clip):
                super().__init__(shapes, 2 * clip)

        monkeypatch.setattr(fedtune.aggregation.private, "ClippedSum", Twice)
    found, result = failures(tiny_bert_folder, tmp_path, CLIENT, 20)
    assert {"seed reused": "fresh noise"}.get(fault, "noise scale") in found
    assert not result.passed


def test_the_command_says_what_it_found_and_fails_where_the_claim_does(tiny_bert_folder, tmp_path, monkeypatch):
    file, out = tmp_path / "private.toml", tmp_path / "copy.json"
    file.write_text(dump(recipe(tiny_bert_folder, tmp_path, CLIENT)))
    sound = CliRunner().invoke(run, [str(file), "--canaries", "20", "--out", str(out)])
    assert "claimed: ε = " in sound.output
    assert "about " in sound.output
    assert (tmp_path / "runs" / "run-audit" / "audit.json").read_text() == out.read_text()
    monkeypatch.setattr(server.private, "SecureNoise", NoNoise)
    broken = CliRunner().invoke(run, [str(file), "--canaries", "20", "--set", "run.name=broken"])
    assert broken.exit_code == 1
    assert "Against the claim" in broken.output
    assert "Traceback" not in broken.output
