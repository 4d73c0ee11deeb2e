"""Runs `fedtune` as a user does: the installed script, in a process of its own, with commands of another package."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

SCRIPT = Path(sys.executable).with_name("fedtune")

PLUGIN = """
import socket, sys, time
import click

@click.command()
def nap():
    print("asleep", flush=True)
    time.sleep(60)

@click.command()
def full():
    with open("/dev/full", "w") as file:
        file.write("x")

@click.command()
def port():
    one, two = socket.socket(), socket.socket()
    one.bind(("127.0.0.1", 0))
    one.listen()
    two.bind(one.getsockname())

@click.command()
def bug():
    raise ValueError("three is not four\\nand more")

@click.command()
def memory():
    raise MemoryError

@click.command()
def lacks():
    import package_that_nobody_has

@click.command()
@click.pass_context
def seven(ctx):
    ctx.exit(7)
"""
COMMANDS = ("nap", "full", "port", "bug", "memory", "lacks", "seven")

Fedtune = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture(scope="session")
def plugin(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder for PYTHONPATH that holds an installed package with commands that fail in every way."""
    folder = tmp_path_factory.mktemp("plugin")
    (folder / "plug.py").write_text(PLUGIN)
    info = folder / "plug-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: plug\nVersion: 1.0\n")
    entries = "\n".join(f"{name} = plug:{name}" for name in (*COMMANDS, "broken"))
    (info / "entry_points.txt").write_text(f"[fedtune.commands]\n{entries}\n")
    return folder


@pytest.fixture
def fedtune(tmp_path: Path) -> Fedtune:
    """`fedtune(*args, **env)`: the finished process, run in `tmp_path`."""

    def run(*args: str, **env: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [str(SCRIPT), *args],
            cwd=tmp_path,
            env={**os.environ, **env},
            capture_output=True,
            text=True,
            errors="replace",
            timeout=60,
            check=False,
        )

    return run
