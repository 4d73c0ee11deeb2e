"""`environment.json`: the machine and the versions that a run's figures were measured with."""

import os
import platform
import subprocess
import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import psutil
import torch

PACKAGES = ("fedtune", "torch", "transformers", "peft", "safetensors", "datasets", "flwr", "grpcio", "numpy")


def describe_environment() -> dict[str, Any]:
    """Python, system, processor, GPUs, package versions and source commit; no host or user name, for it is shared."""
    return {
        "python": platform.python_version(),
        "system": platform.platform(),
        "processor": _processor(),
        "cores": os.cpu_count() or 0,
        "memory_gib": round(psutil.virtual_memory().total / 2**30, 1),
        "gpus": _gpus(),
        "cuda": torch.version.cuda or "",
        "packages": {name: _version(name) for name in PACKAGES},
        "commit": _commit(),
    }


def changed_values(before: dict[str, Any], after: dict[str, Any]) -> dict[str, str]:
    """What differs between two environments, as `old → new` by dotted name."""
    old, new = _flat(before), _flat(after)
    return {
        name: f"{old.get(name, '–')} → {new.get(name, '–')}"
        for name in sorted(old | new)
        if old.get(name) != new.get(name)
    }


def _flat(values: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for name, value in values.items():
        flat |= _flat(value, f"{prefix}{name}.") if isinstance(value, dict) else {prefix + name: value}
    return flat


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return ""


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(errors="replace").splitlines()
    except OSError:
        lines = []
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, "") or platform.processor() or platform.machine()


def _gpus() -> list[str]:
    if torch.cuda.is_available():
        return [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    if sys.platform == "darwin" and torch.backends.mps.is_available():
        return ["Apple (mps)"]
    return []


def _commit() -> str:
    """The commit of fedtune's own source tree, with `+changes` where files differ; empty for an installed wheel."""
    root = Path(__file__).resolve().parents[2]
    if not (root / ".git").exists():
        return ""
    head = _git(root, "rev-parse", "HEAD")
    changed = _git(root, "status", "--porcelain", "--untracked-files=no")
    return head + ("+changes" if head and changed else "")


def _git(root: Path, *arguments: str) -> str:
    try:
        done = subprocess.run(
            ["git", "-C", str(root), *arguments], capture_output=True, text=True, timeout=10, check=False
        )
    except (OSError, subprocess.SubprocessError):
        return ""
    return done.stdout.strip() if done.returncode == 0 else ""
