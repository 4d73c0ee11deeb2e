"""`fedtune audit RUN`: what it writes, what it says, and how it ends."""

import json
import shutil
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from report_examples import client_run, measured

from fedtune.audit.ledger import read_ledger
from fedtune.audit.report.command import report_command
from fedtune.errors import LedgerBroken


def invoke(*arguments: object) -> Result:
    return CliRunner().invoke(report_command, [str(argument) for argument in arguments])


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = client_run(tmp_path_factory.mktemp("runs") / "run", rounds=2)
    done = invoke(run)
    assert done.exit_code == 0
    assert "differential privacy with ε = " in done.output
    assert done.output.endswith(f"{run}/audit-report.html\n{run}/audit-report.json\n")
    return run


def test_the_report_that_was_written_is_verified(written: Path) -> None:
    done = invoke(written, "--verify")
    assert (done.exit_code, done.output) == (0, "everything in the report follows from the ledger\n")
    assert invoke(written / "audit-report.json", "--verify").exit_code == 0


def test_a_changed_figure_is_named_and_the_exit_code_is_1(written: Path, tmp_path: Path) -> None:
    report = json.loads((written / "audit-report.json").read_text())
    epsilon = report["figures"]["spent"]["epsilon"]
    report["figures"]["spent"]["epsilon"] = epsilon * 0.99
    (tmp_path / "report.json").write_text(json.dumps(report))
    done = invoke(tmp_path / "report.json", "--verify", "--ledger", written)
    assert done.exit_code == 1
    assert f"figures.spent.epsilon is {epsilon * 0.99}, and the ledger gives {epsilon}" in done.output
    assert "2 differences" in done.output


def test_a_report_far_from_its_run_is_verified_by_the_ledger_and_the_key_alone(written: Path, tmp_path: Path) -> None:
    for name in ("audit-report.json", "ledger.jsonl", "ledger.pub"):
        shutil.copy(written / name, tmp_path / name)
    head = read_ledger(written).head.hash
    done = invoke(
        tmp_path / "audit-report.json",
        *("--verify", "--ledger", tmp_path / "ledger.jsonl", "--public-key", tmp_path / "ledger.pub", "--head", head),
    )
    assert done.exit_code == 0
    missing = invoke(tmp_path / "audit-report.json", "--verify", "--head", "0" * 64)
    assert isinstance(missing.exception, LedgerBroken)


def test_the_files_go_where_they_are_wanted(written: Path, tmp_path: Path) -> None:
    page, values = tmp_path / "new" / "page.html", tmp_path / "new" / "values.json"
    assert invoke(written, "--json", values, "--html", page).exit_code == 0
    assert (
        json.loads(values.read_text())["figures"] == json.loads((written / "audit-report.json").read_text())["figures"]
    )
    assert page.read_text().startswith("\n<!doctype html>") or page.read_text().startswith("<!doctype html>")


def test_a_run_that_fails_a_check_is_written_and_ends_with_1(tmp_path: Path) -> None:
    run = client_run(tmp_path / "run", rounds=1)
    measured(run, bound=40.0)
    done = invoke(run)
    assert done.exit_code == 1
    assert "Does the empirical audit leave the claim standing? No: the white-box attack shows" in done.output
    assert (run / "audit-report.html").exists()


def test_an_adapter_that_was_exchanged_is_named(written: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    shutil.copytree(written, run)
    (run / "adapter").mkdir()
    (run / "adapter" / "adapter_model.safetensors").write_bytes(b"another")
    done = invoke(run, "--verify")
    assert done.exit_code == 1
    assert f"{run / 'adapter'} is" in done.output


def test_a_folder_without_a_ledger_and_a_misplaced_option_are_one_sentence(tmp_path: Path) -> None:
    assert isinstance(invoke(tmp_path).exception, LedgerBroken)
    assert invoke(tmp_path, "--ledger", tmp_path).exit_code == 2
    assert "Examples:" in invoke("--help").output
