"""Python, processor, memory, disk and the coordinator's port."""

import os
import platform
import socket
import sys
from pathlib import Path

import psutil

from fedtune.catalogue.disk import free_bytes
from fedtune.cli.checks.finding import Finding, gib

LEAST_FREE_BYTES = 1 << 30
"""A run folder and a converted model fit into this."""


def check_machine() -> list[Finding]:
    """The Python that runs this, and what the machine has left."""
    memory = psutil.virtual_memory()
    cores = psutil.cpu_count(logical=False) or os.cpu_count() or 1
    return [
        Finding("python", "good", f"{platform.python_version()} at {sys.executable}", platform.python_version()),
        Finding(
            "system", "good", f"{platform.system()} {platform.release()}, {platform.machine()}", platform.platform()
        ),
        Finding("cores", "good", f"{cores} of the processor", cores),
        Finding("memory", "good", f"{gib(memory.available)} free of {gib(memory.total)}", int(memory.available)),
        _disk(Path.cwd()),
    ]


def check_port(port: int) -> list[Finding]:
    """Could a coordinator listen on `port` of this machine?"""
    with socket.socket() as listener:
        # As a server does: a port that was closed a moment ago counts as free.
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind(("", port))
        except PermissionError:
            return [Finding(f"port {port}", "absent", "needs more rights: take a port above 1023 with --port", False)]
        except OSError:
            detail = "in use: a coordinator runs here, or another program; `fedtune coordinator --port` takes another"
            return [Finding(f"port {port}", "absent", detail, False)]
    return [Finding(f"port {port}", "good", "free for a coordinator", True)]


def _disk(folder: Path) -> Finding:
    free = free_bytes(folder)
    if free < LEAST_FREE_BYTES:
        return Finding("disk", "problem", f"{gib(free)} free at {folder}: make room before a run", free)
    return Finding("disk", "good", f"{gib(free)} free at {folder}", free)
