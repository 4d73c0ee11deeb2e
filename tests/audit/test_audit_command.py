"""`fedtune audit`: a subcommand by its name, and a run folder where the first word is none."""

import importlib.metadata
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from fedtune.audit.checks.faults import FAULTS
from fedtune.audit.estimators import reach
from fedtune.cli import audit as module
from fedtune.cli.audit_selfcheck import selfcheck
from simulations.audit.run import FOR_CHECKS, PER_ATTACK


@click.command()
@click.argument("run")
@click.option("--verify", is_flag=True)
def report(run: str, verify: bool) -> None:
    """Stands in for the report."""
    click.echo(f"report {run} {verify}")


@click.command()
@click.argument("recipe")
def attack(recipe: str) -> None:
    """Stands in for the attack."""
    click.echo(f"attack {recipe}")


@pytest.fixture
def runner(monkeypatch):
    entries = {
        name: importlib.metadata.EntryPoint(name, f"{__name__}:{value}", module.GROUP)
        for name, value in {"report": "report", "run": "attack"}.items()
    }
    monkeypatch.setattr(module, "_entry_points", lambda: entries)
    return CliRunner()


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["run", "mine.toml"], "attack mine.toml"),
        (["runs/mine"], "report runs/mine False"),
        (["runs/mine", "--verify"], "report runs/mine True"),
        (["report", "run", "--verify"], "report run True"),
        (["./run"], "report ./run False"),
    ],
)
def test_words_find_their_command(runner, words, said):
    result = runner.invoke(module.audit, words)
    assert result.output.strip() == said
    assert result.exit_code == 0


def test_without_words_the_commands_are_listed(runner):
    result = runner.invoke(module.audit, ["--help"])
    assert result.exit_code == 0
    assert "run " in result.output
    assert "report" in result.output


def test_the_selfcheck_names_every_fault_and_who_sees_it():
    result = CliRunner(env={"COLUMNS": "200"}).invoke(selfcheck, ["--canaries", "300"])
    assert all(fault in result.output for fault in FAULTS)
    assert "sample overlap" in result.output
    assert "claimed: ε = 2.13" in result.output


@pytest.mark.parametrize(
    ("canaries", "said"), [(50, "1.90"), (100, "2.63"), (200, "3.34"), (400, "4.04"), (1000, "4.96")]
)
def test_the_reach_that_the_page_tells_is_the_one_of_the_default_audit(canaries, said):
    alpha = (1 - FOR_CHECKS) * 0.05 / (2 * PER_ATTACK)
    assert f"{reach(canaries, delta=1e-5, confidence=1 - alpha):.2f}" == said
    number = f"{canaries:,}"
    page = " ".join((Path(__file__).parents[2] / "docs" / "audit.md").read_text(encoding="utf-8").split())
    assert f"{said} on {number}" in page
