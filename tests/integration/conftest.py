"""The `fedtune` command in this process, and how its mistakes are to look."""

from collections.abc import Callable

import pytest
from click.testing import CliRunner, Result

from fedtune.cli.main import main

Fedtune = Callable[..., Result]


@pytest.fixture
def fedtune() -> Fedtune:
    """`fedtune(*args)`: what the command wrote and its exit code; as the program, but torch is imported already."""

    def run(*args: object) -> Result:
        return CliRunner().invoke(main, [str(arg) for arg in args], prog_name="fedtune")

    return run


@pytest.fixture
def fails(fedtune: Fedtune) -> Callable[..., str]:
    """`fails(*args)`: the one sentence of a command that must fail; lines before it may only tell how far it came."""

    def run(*args: object) -> str:
        result = fedtune(*args)
        assert result.exit_code == 1, result.output
        return only_sentence(result.stderr)

    return run


def only_sentence(stderr: str) -> str:
    """The error on stderr: the last line, the only one of its kind, and no traceback."""
    *before, last = stderr.splitlines()
    assert last.startswith("Error: "), stderr
    assert not [line for line in before if line.startswith(("Error", "Traceback", "  File"))], stderr
    return last.removeprefix("Error: ")
