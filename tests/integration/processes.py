"""`fedtune …` as processes of their own: a coordinator and its clients over TLS, to watch, kill and start again."""

import json
import multiprocessing
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

from fedtune.data.table import tables
from fedtune.recipe import Recipe
from fedtune.recipe.dump import dump
from fedtune.runs.folder import RunFolder
from server.keys.folder import KeyFolder
from simulations.population import Population

SCRIPT = Path(sys.executable).with_name("fedtune")
PATIENCE_S = 150
_PRELOADED = ["client.stay", "client.cli", "server.deploy", "server.cli", "server.show", "peft", "fedtune.recipe.load"]


class Started(Protocol):
    """A `fedtune` process."""

    log: Path
    """Everything that it wrote."""

    def kill(self) -> None:
        """As a power cut would."""

    def wait(self) -> int:
        """Its exit code; fails where it does not end."""


class Installed:
    """The installed `fedtune` program."""

    def __init__(self, log: Path, *args: str) -> None:
        self.log = log
        with log.open("ab") as out:
            self._process = subprocess.Popen([str(SCRIPT), *args], stdout=out, stderr=out)

    def kill(self) -> None:
        """As a power cut would."""
        self._process.kill()
        self._process.wait(10)

    def wait(self) -> int:
        """Its exit code."""
        return self._process.wait(PATIENCE_S)


class Forked:
    """The same command in a process forked from one that has imported torch already: seconds less for each start."""

    @staticmethod
    def does(args: tuple[str, ...], log: Path) -> None:
        """What the process does."""
        run_fedtune(args, log)

    def __init__(self, log: Path, *args: str) -> None:
        self.log = log
        forge = multiprocessing.get_context("forkserver")
        forge.set_forkserver_preload(_PRELOADED)
        self._process = forge.Process(target=self.does, args=(args, log), daemon=True)
        self._process.start()

    def kill(self) -> None:
        """As a power cut would."""
        if self._process.pid and self._process.is_alive():
            os.kill(self._process.pid, signal.SIGKILL)
        self._process.join(10)

    def wait(self) -> int:
        """Its exit code."""
        self._process.join(PATIENCE_S)
        assert self._process.exitcode is not None, f"the process does not end:\n{self.log.read_text()}"
        return self._process.exitcode


def run_fedtune(args: tuple[str, ...], log: Path) -> None:
    """What a forked process does: all that it says goes to `log`."""
    descriptor = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(descriptor, 1)
    os.dup2(descriptor, 2)
    from fedtune.cli.main import main

    main(list(args), prog_name="fedtune")


class Federation:
    """One recipe, with keys and rows for real clients that hold what the simulation's clients hold."""

    def __init__(self, recipe: Recipe, folder: Path, start: Callable[..., Started] = Forked) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.recipe = recipe
        self.folder = folder
        self._start = start
        self.port = free_port()
        self.recipe_file = folder / "recipe.toml"
        self.recipe_file.write_text(dump(recipe))
        self.rows = write_parts(recipe, folder)
        self.keys = KeyFolder(folder / "keys")
        self.started: list[Started] = []

    @property
    def names(self) -> list[str]:
        """The clients."""
        return list(self.rows)

    @property
    def run(self) -> RunFolder:
        """The run's folder, to read."""
        return RunFolder.open(Path(self.recipe.run.folder) / self.recipe.run.name)

    def make_keys(self) -> None:
        """What `fedtune keys init` does."""
        self.keys.init([], self.names)

    def coordinator(self, *more: str) -> Started:
        """Start the coordinator."""
        return self._begin("coordinator", str(self.recipe_file), "--keys", str(self.keys.folder), *more)

    def client(self, name: str, *more: str, start: Callable[..., Started] | None = None) -> Started:
        """Start one client, by `start` where it is another process than the others."""
        where = ["--coordinator", f"127.0.0.1:{self.port}", "--data", str(self.rows[name])]
        return self._begin("client", *where, "--keys", str(self.keys.bundle(name)), *more, log=name, start=start)

    def clients(self) -> list[Started]:
        """Start all clients."""
        return [self.client(name) for name in self.names]

    def rounds_done(self) -> int:
        """How many lines the journal has."""
        journal = Path(self.recipe.run.folder) / self.recipe.run.name / "rounds.jsonl"
        return journal.read_bytes().count(b"\n") if journal.exists() else 0

    def _begin(self, command: str, *args: str, log: str = "", start: Callable[..., Started] | None = None) -> Started:
        extra = ["--port", str(self.port)] if command == "coordinator" else []
        begun = (start or self._start)(self.folder / f"{log or command}.log", command, *args, *extra)
        self.started.append(begun)
        return begun

    def logs(self) -> str:
        """What all processes said."""
        return "\n".join(f"--- {path.name}\n{path.read_text()}" for path in sorted(self.folder.glob("*.log")))

    def __enter__(self) -> "Federation":
        return self

    def __exit__(self, kind: Any, *_: object) -> None:
        for process in self.started:
            process.kill()
        if kind is not None:
            print(self.logs())


def write_parts(recipe: Recipe, folder: Path) -> dict[str, Path]:
    """A JSONL file for each simulated client, with its rows in their order; empty parts are empty files."""
    population = Population.of(recipe)
    table = tables(recipe.data, recipe.model, recipe.run.seed).train
    files = {}
    for name, part in zip(population.names, population.parts, strict=True):
        files[name] = folder / f"{name}.jsonl"
        files[name].write_text("".join(json.dumps(row) + "\n" for row in table.select(part)))
    return files


def free_port() -> int:
    """A port of loopback that nobody listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def eventually(condition: Callable[[], object], timeout_s: float = PATIENCE_S) -> None:
    """Wait until something is so; fails the test where it does not come."""
    end = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < end, "it did not happen in time"
        time.sleep(0.005)
