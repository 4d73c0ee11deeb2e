"""`flwr run .` with Flower's own SuperLink and two SuperNodes: the commands of docs/flower.md, on loopback."""

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import psutil
import pytest
from flwr.app import Context, RecordDict

from client.local_data import LocalData
from client.work import Workplace
from fedtune.recipe.dump import dump
from fedtune.runs.folder import RunFolder
from server.app import make_app, run_config
from server.listener import Listener
from simulations.cohort import CohortGrid, work_with
from simulations.dealt import Grouped
from simulations.groups import singly
from tests.integration.processes import eventually, free_port
from tests.worlds import tiny_recipe, write_rows

pytestmark = pytest.mark.processes
ROOT = Path(__file__).resolve().parents[2]
PROGRAMS = Path(sys.executable).parent
ROWS = {24: "a.jsonl", 16: "b.jsonl"}


class Flower:
    """Flower's programs, with nothing of theirs outside `home`."""

    def __init__(self, home: Path) -> None:
        self.home = home
        self._running: list[psutil.Process] = []
        self._env = {
            **os.environ,
            "FLWR_HOME": str(home),
            "FLWR_TELEMETRY_ENABLED": "0",
            "FLWR_DISABLE_UPDATE_CHECK": "1",
            "FLWR_DISABLE_RUNTIME_DEPENDENCY_INSTALLATION": "1",
            "FLWR_SUPEREXEC_TASK_POLL_INTERVAL": "0.2",
            "PATH": f"{PROGRAMS}{os.pathsep}{os.environ['PATH']}",
        }

    def start(self, program: str, *args: str) -> None:
        """Start one that stays."""
        with (self.home / f"{program}-{len(self._running)}.log").open("wb") as log:
            process = subprocess.Popen(
                [str(PROGRAMS / program), *args], env=self._env, cwd=self.home, stdout=log, stderr=log
            )
        self._running.append(psutil.Process(process.pid))

    def call(self, *args: str) -> str:
        """Run `flwr …` to its end."""
        command = [str(PROGRAMS / "flwr"), *args]
        done = subprocess.run(
            command, env=self._env, cwd=self.home, capture_output=True, text=True, timeout=200, check=False
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    def logs(self) -> str:
        return "\n".join(f"--- {path.name}\n{path.read_text()}" for path in sorted(self.home.glob("*.log")))

    def __enter__(self) -> "Flower":
        return self

    def __exit__(self, kind: object, *_: object) -> None:
        family = [child for process in self._running for child in [*process.children(recursive=True), process]]
        for process in family:
            if process.is_running():
                process.kill()
        psutil.wait_procs(family, timeout=10)
        if kind is not None:
            print(self.logs())


@pytest.fixture
def home(tmp_path):
    (tmp_path / "home").mkdir()
    return tmp_path / "home"


def recipe_of(model, test_rows, folder, name):
    """A coordinator without rows of its own but for the test set."""
    return tiny_recipe(
        model,
        "",
        folder,
        data={"source": "", "test_fraction": 0.0, "test_source": str(test_rows)},
        federation={"rounds": 1, "min_clients": 2, "min_replies": 2, "deadline_s": 240},
        run={"name": name, "folder": str(folder), "tensorboard": False},
    )


def simulated(recipe, files):
    """The same round over the cohort Grid, by the names that Flower gave the clients, each alone as there."""
    data = {name: LocalData(path) for name, path in files.items()}
    grid = CohortGrid(list(files), work_with(Grouped(Workplace(lambda name, bench: data[name](name, bench)), singly)))
    make_app(Listener())(grid, Context(1, 1, {}, RecordDict(), dict(run_config(recipe, resume=False))))
    return RunFolder.open(Path(recipe.run.folder) / recipe.run.name).rounds()


def test_flwr_run_on_a_superlink_with_two_supernodes(tiny_bert_folder, tmp_path, home):
    for rows, name in ROWS.items():
        write_rows(tmp_path / name, rows, seed=rows)
    test_rows = write_rows(tmp_path / "test.jsonl", 20, seed=9)
    recipe_file = tmp_path / "recipe.toml"
    recipe_file.write_text(dump(recipe_of(tiny_bert_folder, test_rows, tmp_path, "flower")))
    link = f"127.0.0.1:{free_port()}"
    (home / "config.toml").write_text(f'[superlink.deploy]\naddress = "{link}"\ninsecure = true\n')
    path = tmp_path / "flower"
    with Flower(home) as flower:
        host, port = link.split(":")
        flower.start(
            "flower-superlink",
            "--insecure",
            "--host",
            host,
            "--port",
            port,
            "--disable-runtime-dependency-installation",
        )
        for name in ROWS.values():
            flower.start(
                "flower-supernode", "--insecure", "--superlink", link, "--host", host, "--port", str(free_port()),
                "--node-config", f'data="{tmp_path / name}"',
            )  # fmt: skip
        eventually(lambda: listening(int(port)), 60)
        config = f'recipe="{recipe_file}" set="training.lr=0.02 run.tensorboard=false"'
        flower.call("run", str(ROOT), "deploy", "--run-config", config)
        eventually(lambda: (path / "run.json").exists() and RunFolder.open(path).status != "running", 240)
        folder = RunFolder.open(path)
        assert folder.status == "finished", folder.info.reason
    start, end = folder.rounds()
    assert folder.recipe.training.lr == 0.02
    assert {c.outcome for c in end.clients} == {"ok"}
    assert sorted(c.examples for c in end.clients) == sorted(ROWS)
    assert start.central.examples == end.central.examples == 20
    assert (folder.adapter_path / "adapter_model.safetensors").exists()
    files = {client.client: tmp_path / ROWS[client.examples] for client in end.clients}
    again = simulated(
        folder.recipe.model_copy(update={"run": folder.recipe.run.model_copy(update={"name": "sim"})}), files
    )
    assert again[-1].state_digest == end.state_digest
    assert [(c.bytes_up, c.bytes_down) for c in again[-1].clients] == [(c.bytes_up, c.bytes_down) for c in end.clients]


def renamed(recipe, name):
    return recipe.model_copy(update={"run": recipe.run.model_copy(update={"name": name})})


def listening(port):
    return any(c.status == psutil.CONN_LISTEN and c.laddr.port == port for c in psutil.net_connections("tcp"))


def test_the_archive_that_flower_sends_holds_no_code(home):
    """What runs is the package that each machine has installed."""
    with Flower(home) as flower:
        flower.call("build", "--app", str(ROOT))
    (archive,) = home.glob("*.fab")
    assert sorted(zipfile.ZipFile(archive).namelist()) == [".info/CONTENT", "LICENSE", "pyproject.toml"]
    assert archive.stat().st_size < 64 << 10
