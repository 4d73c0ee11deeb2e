"""`fedtune keys` as a user types it."""

from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from fedtune.errors import EnrolmentError
from server.keys.cli import keys


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):  # type: ignore[no-untyped-def]
    monkeypatch.chdir(tmp_path)
    return lambda line: CliRunner().invoke(keys, line.split())


def test_one_command_makes_all_keys(run, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    result: Result = run("init --host fl.example.org --client hospital-a --clients 2")
    assert result.exit_code == 0, result.output
    assert "hospital-a: hand over keys/clients/hospital-a" in result.output
    assert sorted(path.name for path in (tmp_path / "keys/clients").iterdir()) == ["client-1", "client-2", "hospital-a"]


def test_add_list_revoke_renew(run) -> None:  # type: ignore[no-untyped-def]
    run("init --client a")
    assert run("add b").exit_code == 0
    assert run("revoke a").output == "a: revoked\n"
    assert "renewed" in run("renew --server --host x.example.org").output
    assert "the old key is refused" in run("renew b --days 20").output
    a, b = run("list").output.splitlines()
    assert a.startswith("a  revoked")
    assert "renew, until 2" in b
    assert "sha256:" in b


def test_without_a_folder_it_says_how_to_make_one(run) -> None:  # type: ignore[no-untyped-def]
    error = run("add a").exception
    assert isinstance(error, EnrolmentError)
    assert "`fedtune keys init keys`" in str(error)


@pytest.mark.parametrize("line", ["renew", "renew a --server", "init --days 0"])
def test_lines_that_make_no_sense_are_usage_errors(run, line: str) -> None:  # type: ignore[no-untyped-def]
    assert run(line).exit_code == 2


@pytest.mark.parametrize("line", ["", "init", "add", "revoke", "renew", "list"])
def test_every_help_has_an_example(run, line: str) -> None:  # type: ignore[no-untyped-def]
    assert "fedtune keys" in run(f"{line} --help").output
    assert "Example" in run(f"{line} --help").output
