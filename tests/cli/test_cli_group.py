"""The `fedtune` command: it starts without heavy imports, lists commands by group, and ends in sentences and codes."""

import errno
import json
import os
import subprocess
import sys
from importlib.metadata import entry_points
from pathlib import Path

import click
import pytest
from click.testing import CliRunner, Result

from fedtune.cli.main import SUMMARIES, Commands, main
from fedtune.errors import DataError, RecipeError

INSTALLED = sorted(entry.name for entry in entry_points(group="fedtune.commands"))


def invoke(*args: str, group: click.Command = main, **env: str) -> Result:
    return CliRunner(env=env).invoke(group, list(args), prog_name="fedtune")


def failing(error: BaseException) -> Commands:
    """A `fedtune` with the one command `fail`, which raises `error`."""

    class Failing(Commands):
        def list_commands(self, ctx: click.Context) -> list[str]:
            return ["fail"]

        def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
            return fail

    @click.command()
    def fail() -> None:
        raise error

    return Failing(name="fedtune")


def run_python(code: str) -> str:
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=True)
    return done.stdout


def test_help_imports_neither_torch_nor_the_commands() -> None:
    code = """
import json, sys
from fedtune.cli.main import main
try:
    main(["--help"])
except SystemExit as end:
    print(json.dumps({"code": end.code, "modules": sorted(sys.modules)}))
"""
    report = json.loads(run_python(code).splitlines()[-1])
    assert report["code"] == 0
    heavy = {"torch", "transformers", "flwr", "datasets", "grpc", "pydantic", "server", "client", "simulations"}
    assert heavy.isdisjoint(report["modules"])


def test_checking_a_recipe_imports_no_torch() -> None:
    code = """
import sys
from fedtune.cli.main import main
try:
    main(["recipe", "check", "movie-reviews"])
except SystemExit as end:
    print(end.code, "torch" in sys.modules, "simulations" in sys.modules and "flwr" in sys.modules)
"""
    assert run_python(code).splitlines()[-1] == "0 False False"


def test_libraries_are_kept_from_reporting_before_any_is_imported() -> None:
    names = "FLWR_TELEMETRY_ENABLED", "HF_HUB_DISABLE_TELEMETRY"
    code = f"import fedtune.cli.main, os; print(*(os.environ[name] for name in {names}))"
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("FLWR_", "HF_"))}
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, timeout=60, check=True
    )
    assert done.stdout.split() == ["0", "1"]


def test_the_installed_program_says_its_version() -> None:
    program = Path(sys.executable).with_name("fedtune")
    done = subprocess.run([program, "--version"], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.startswith("fedtune, version ")


def test_help_lists_every_installed_command_under_its_group() -> None:
    said = invoke("--help").output
    for title, summaries in SUMMARIES.items():
        assert f"\n{title}:\n" in said
        for name, summary in summaries.items():
            assert f"  {name} " in said
            assert summary in " ".join(said.split())
    assert {name for group in SUMMARIES.values() for name in group} <= set(INSTALLED)


@pytest.mark.parametrize("name", INSTALLED)
def test_each_command_helps_with_an_example(name: str) -> None:
    result = invoke(name, "--help")
    assert result.exit_code == 0, result.output
    assert "Example" in result.output
    assert f"fedtune {name}" in result.output


def test_an_unknown_command_is_wrong_usage_and_the_nearest_is_named() -> None:
    result = invoke("simulat")
    assert result.exit_code == 2
    assert "did you mean 'simulate'?" in result.stderr
    assert result.stdout == ""


def test_an_unknown_option_is_wrong_usage() -> None:
    assert invoke("recipe", "list", "--nonsense").exit_code == 2


def test_our_errors_are_one_sentence_on_stderr_and_code_1() -> None:
    result = invoke("fail", group=failing(DataError("rows.csv has no column text")))
    assert (result.exit_code, result.stdout) == (1, "")
    assert result.stderr == "Error: rows.csv has no column text\n"


def test_several_mistakes_are_counted_and_said_line_by_line() -> None:
    result = invoke("fail", group=failing(RecipeError("a.toml, line 1: x\na.toml, line 2: y")))
    assert result.stderr.splitlines() == ["Error: 2 mistakes", "a.toml, line 1: x", "a.toml, line 2: y"]


def test_long_sentences_are_not_broken_and_brackets_are_not_styles() -> None:
    sentence = "[training] " + "word " * 60 + "[/end]"
    assert invoke("fail", group=failing(RecipeError(sentence))).stderr == f"Error: {sentence}\n"


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (OSError(errno.ENOSPC, "No space left on device"), "the disk is full"),
        (OSError(errno.EADDRINUSE, "Address already in use"), "the port is in use"),
        (FileNotFoundError(errno.ENOENT, "No such file or directory", "x.csv"), "there is no file or folder (x.csv)"),
        (PermissionError(errno.EACCES, "Permission denied", "x.csv"), "access is denied (x.csv)"),
        (MemoryError(), "the memory does not suffice"),
        (ModuleNotFoundError("No module named 'mlflow'"), "'mlflow'"),
        (ZeroDivisionError("division by zero"), "ZeroDivisionError: division by zero"),
    ],
)
def test_errors_of_the_system_are_one_sentence_without_a_traceback(error: Exception, expected: str) -> None:
    result = invoke("fail", group=failing(error))
    assert result.exit_code == 1
    assert expected in result.stderr
    assert len(result.stderr.splitlines()) == 1
    assert "Traceback" not in result.stderr


def test_a_stop_by_the_keyboard_is_130() -> None:
    result = invoke("fail", group=failing(KeyboardInterrupt()))
    assert result.exit_code == 130
    assert "stopped" in result.stderr


@pytest.mark.parametrize("args", [["--debug", "fail"], ["fail", "--debug"]])
def test_debug_lets_the_traceback_through_wherever_it_stands(args: list[str]) -> None:
    result = invoke(*args, group=failing(DataError("no rows")))
    assert isinstance(result.exception, DataError)


def test_the_environment_asks_for_tracebacks_too() -> None:
    assert isinstance(invoke("fail", group=failing(DataError("x")), FEDTUNE_DEBUG="1").exception, DataError)
    assert isinstance(invoke("fail", group=failing(DataError("x")), FEDTUNE_DEBUG="0").exception, SystemExit)


def test_no_colour_is_written_into_a_file_or_against_the_users_wish() -> None:
    program = [Path(sys.executable).with_name("fedtune"), "recipe", "check", "nowhere"]
    plain = subprocess.run(program, capture_output=True, text=True, timeout=60, check=False)
    assert plain.returncode == 1
    assert "\x1b" not in plain.stderr
    forced = subprocess.run(
        program, env={**os.environ, "FORCE_COLOR": "1"}, capture_output=True, text=True, timeout=60, check=False
    )
    assert "\x1b[1;31m" in forced.stderr
    refused = subprocess.run(
        program,
        env={**os.environ, "FORCE_COLOR": "1", "NO_COLOR": "1"},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert "\x1b[1;31m" not in refused.stderr
    assert "[31m" not in refused.stderr


def test_a_reader_that_goes_away_is_no_error() -> None:
    program = Path(sys.executable).with_name("fedtune")
    script = f"'{program}' recipe check movie-reviews --toml | head -n 1"
    done = subprocess.run(["bash", "-c", script], capture_output=True, text=True, timeout=60, check=True)
    assert "Traceback" not in done.stderr
    assert "Error" not in done.stderr
