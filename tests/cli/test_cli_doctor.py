"""`fedtune doctor`: finds what is here, says what is missing and how to get it, and fails where no run could start."""

import json
import os
import socket
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import CliRunner

from fedtune.catalogue import names
from fedtune.cli.checks import check_devices, check_extras, check_packages, check_port, check_store, healthy
from fedtune.cli.main import main


def examine(*args: str) -> tuple[int, dict[str, Any]]:
    shown = CliRunner().invoke(main, ["doctor", "--json", *args])
    return shown.exit_code, json.loads(shown.stdout)


def test_a_sound_machine_is_healthy_and_its_figures_are_right() -> None:
    code, said = examine()
    assert (code, said["healthy"]) == (0, True)
    values = {
        finding["name"]: finding["value"] for group in said.values() if isinstance(group, list) for finding in group
    }
    assert values["transformers"] == version("transformers")
    assert values["cpu"] is True
    assert values["memory"] > 0
    assert set(names()) <= set(values)


def test_the_table_says_the_same() -> None:
    shown = CliRunner().invoke(main, ["doctor"])
    assert shown.exit_code == 0
    for word in ("python", "torch", "cpu", "fp32", "bitsandbytes", "4-bit", "minilm", "port 7443"):
        assert word in shown.stdout


def test_a_port_in_use_is_seen_whoever_holds_it() -> None:
    for address, family in (("127.0.0.1", socket.AF_INET), ("0.0.0.0", socket.AF_INET)):  # noqa: S104
        with socket.socket(family) as holder:
            holder.bind((address, 0))
            holder.listen()
            (finding,) = check_port(holder.getsockname()[1])
            assert finding.value is False
            assert "in use" in finding.detail
            free = holder.getsockname()[1]
        assert check_port(free)[0].value is True


def test_a_port_in_use_stops_nobody_who_simulates() -> None:
    with socket.socket() as holder:
        holder.bind(("127.0.0.1", 0))
        holder.listen()
        assert examine("--port", str(holder.getsockname()[1]))[0] == 0


def test_a_cache_that_cannot_be_written_is_a_problem(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("FEDTUNE_CACHE", str(tmp_path / "file" / "cache"))
    assert not healthy(check_store())
    code, said = examine()
    assert (code, said["healthy"]) == (1, False)
    assert "FEDTUNE_CACHE" in said["models and data"][0]["detail"]


def test_an_empty_cache_is_no_problem_and_says_how_to_fill_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FEDTUNE_CACHE", str(tmp_path / "new"))
    folder, *entries = check_store()
    assert folder.value == str(tmp_path / "new")
    assert {entry.state for entry in entries} == {"absent"}
    assert all(f"fedtune fetch {entry.name}" in entry.detail for entry in entries)
    assert not os.path.exists(tmp_path / "new")


def test_every_declared_package_is_looked_at_once() -> None:
    found = [finding.name for finding in check_packages()]
    assert len(found) == len(set(found))
    assert {"torch", "flwr", "grpcio", "pydantic", "click"} <= set(found)
    assert not {"pytest", "mkdocs-material", "gguf"} & set(found)
    assert {"gguf", "onnx", "bitsandbytes", "mlflow-skinny", "ray"} <= {finding.name for finding in check_extras()}


def test_the_first_device_is_what_auto_takes() -> None:
    findings = check_devices()
    assert findings[0].value == torch.__version__
    assert findings[-1].name == "cpu"
    assert (findings[1].name == "cpu") == (not torch.cuda.is_available() and not torch.backends.mps.is_available())
