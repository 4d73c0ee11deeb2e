"""`fedtune` in processes of its own, with commands of another package that really fill a disk or take a port."""

import os
import signal
import subprocess
from pathlib import Path

import pytest

from tests.cli.conftest import COMMANDS, SCRIPT, Fedtune

pytestmark = pytest.mark.processes


def test_commands_of_other_packages_are_listed_last_and_run(fedtune: Fedtune, plugin: Path) -> None:
    said = fedtune("--help", PYTHONPATH=str(plugin)).stdout
    last = said[said.index("Others:") :]
    assert all(f"  {name}" in last for name in COMMANDS)
    assert fedtune("seven", PYTHONPATH=str(plugin)).returncode == 7


@pytest.mark.parametrize(
    ("command", "expected"),
    [
        ("full", "the disk is full"),
        ("port", "the port is in use"),
        ("bug", "ValueError: three is not four"),
        ("memory", "the memory does not suffice"),
        ("lacks", "package_that_nobody_has"),
    ],
)
def test_what_really_goes_wrong_is_one_sentence(fedtune: Fedtune, plugin: Path, command: str, expected: str) -> None:
    done = fedtune(command, PYTHONPATH=str(plugin))
    assert done.returncode == 1
    assert len(done.stderr.splitlines()) == 1
    assert expected in done.stderr
    assert "Traceback" in fedtune(command, PYTHONPATH=str(plugin), FEDTUNE_DEBUG="1").stderr


@pytest.mark.parametrize(("sent", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_stop_from_outside_has_its_code_and_no_traceback(plugin: Path, sent: int, code: int) -> None:
    env = {**os.environ, "PYTHONPATH": str(plugin)}
    pipe = subprocess.PIPE
    with subprocess.Popen([str(SCRIPT), "nap"], env=env, stdout=pipe, stderr=pipe, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "asleep\n"
        process.send_signal(sent)
        _, said = process.communicate(timeout=20)
    assert process.returncode == code
    assert "Traceback" not in said


def test_each_mistake_of_a_recipe_is_a_line_on_stderr(fedtune: Fedtune, tmp_path: Path) -> None:
    (tmp_path / "bad.toml").write_text("[model]\nnam = 1\n[training]\nlr = 'x'\n")
    done = fedtune("recipe", "check", "bad.toml")
    assert (done.returncode, done.stdout) == (1, "")
    assert sum(line.startswith("bad.toml, line") for line in done.stderr.splitlines()) == 3


@pytest.mark.parametrize("encoding", ["ascii", "cp1252"])
def test_a_terminal_without_unicode_gets_its_sentence(fedtune: Fedtune, tmp_path: Path, encoding: str) -> None:
    (tmp_path / "bad.toml").write_text('[model]\nname = "é → ∞"\nlabels = ["∞", "∞"]\n', encoding="utf-8")
    done = fedtune("recipe", "check", "bad.toml", PYTHONIOENCODING=encoding, LC_ALL="C")
    assert done.returncode == 1
    assert "more than once" in done.stderr
    for args in (["doctor"], ["recipe", "show", "movie-reviews"], ["recipe", "check", "movie-reviews"]):
        assert fedtune(*args, PYTHONIOENCODING=encoding, LC_ALL="C").returncode == 0
