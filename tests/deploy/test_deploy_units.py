"""The systemd units: commands that exist, nobody is root, confined, and taken by systemd where it is at hand."""

import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.command_lines import complaint

FOLDER = Path(__file__).parents[2] / "deploy" / "systemd"
UNITS = {path.name: path for path in sorted(FOLDER.glob("*.service"))}
ALL = pytest.mark.parametrize("unit", UNITS)
CONFINED = {
    "NoNewPrivileges": "yes",
    "ProtectSystem": "strict",
    "ProtectHome": "yes",
    "PrivateTmp": "yes",
    "CapabilityBoundingSet": "",
    "RestrictNamespaces": "yes",
    "UMask": "0077",
}


def settings(unit: str) -> dict[str, list[str]]:
    """Every setting of a unit with its values, in order."""
    found: dict[str, list[str]] = {}
    for line in UNITS[unit].read_text(encoding="utf-8").splitlines():
        if line and line[0] not in "#[":
            name, _, value = line.partition("=")
            found.setdefault(name, []).append(value)
    return found


def test_there_is_one_for_each_side() -> None:
    assert list(UNITS) == ["fedtune-client.service", "fedtune-coordinator@.service"]


@ALL
def test_it_starts_a_command_that_exists(unit: str) -> None:
    program, *words = shlex.split(settings(unit)["ExecStart"][0])
    assert program == "/opt/fedtune/bin/fedtune"
    assert complaint(words) == ""


@ALL
def test_it_is_nobody_and_confined(unit: str) -> None:
    values = settings(unit)
    assert values["User"] == values["Group"] == ["fedtune"]
    assert {name: values[name] for name in CONFINED} == {name: [value] for name, value in CONFINED.items()}


@ALL
def test_it_stops_in_the_way_that_fedtune_understands(unit: str) -> None:
    assert settings(unit)["KillSignal"] == ["SIGINT"]
    assert settings(unit)["Restart"] == ["on-failure"]


@ALL
def test_no_secret_is_in_its_arguments_or_environment(unit: str) -> None:
    values = settings(unit)
    words = [word for name in ("ExecStart", "Environment") for value in values[name] for word in value.split()]
    assert [word for word in words if "key" in word.lower()] == ["--keys", "/etc/fedtune/keys"]


@ALL
@pytest.mark.skipif(not shutil.which("systemd-analyze"), reason="systemd is not installed here")
def test_systemd_takes_it(unit: str, tmp_path: Path) -> None:
    program = Path(sys.executable).parent / "fedtune"
    copy = tmp_path / unit.replace("@", "@my")
    copy.write_text(UNITS[unit].read_text(encoding="utf-8").replace("/opt/fedtune/bin/fedtune", str(program)))
    done = subprocess.run(
        ["systemd-analyze", "verify", "--man=no", str(copy)], capture_output=True, text=True, check=False
    )
    assert (done.returncode, [line for line in done.stderr.splitlines() if copy.name in line]) == (0, [])
