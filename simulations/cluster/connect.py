"""A Ray cluster: found or started, and given back."""

import os
import re
import signal
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from fedtune.errors import RunError

LOCAL = "local"
QUIET = {"RAY_USAGE_STATS_ENABLED": "0", "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0"}
"""Nothing is reported to anybody, and nothing warned of that does not concern a run."""
KNOCK_S = 10.0
"""How long a cluster may take to answer at its port."""
_HOST_PORT = re.compile(r"[^/]+:\d{1,5}")
_FORMS = "auto (the cluster of this machine), local (one of this machine's own) or HOST:PORT"


@contextmanager
def connected(address: str) -> Iterator[Any]:
    """The `ray` module, connected to the cluster at `address`; one that is connected already is used as it is.

    Raises RunError where Ray is not installed, the address is none, or nothing answers there.
    """
    ray = _imported()
    if ray.is_initialized():
        yield ray
        return
    if address not in {LOCAL, "auto"} and not _HOST_PORT.fullmatch(address):
        raise RunError(f"--ray takes {_FORMS}, not {address!r}")
    for name, value in QUIET.items():
        os.environ.setdefault(name, value)
    on_sigterm = signal.getsignal(signal.SIGTERM)
    try:
        _knock(address)
        ray.init(address=address, log_to_driver=False, logging_level="error", **_own(address))
    except (OSError, OverflowError, ValueError, RuntimeError) as error:
        raise RunError(
            f"no Ray cluster answers at {address!r}; start or join one here with `ray start`, or use --ray local"
        ) from error
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, on_sigterm)  # Ray has put a handler of its own in its place
    try:
        yield ray
    finally:
        ray.shutdown()


def machines_of(ray: Any) -> int:
    """How many machines the cluster has."""
    return sum(bool(node["Alive"]) for node in ray.nodes())


def is_here(ray: Any) -> bool:
    """Is this machine the whole cluster?"""
    alive = [node["NodeID"] for node in ray.nodes() if node["Alive"]]
    return alive == [ray.get_runtime_context().get_node_id()]


def _knock(address: str) -> None:
    """Raises OSError where nothing listens at HOST:PORT: Ray would end the process."""
    if address not in {LOCAL, "auto"}:
        host, _, port = address.rpartition(":")
        socket.create_connection((host.strip("[]"), int(port)), timeout=KNOCK_S).close()


def _own(address: str) -> dict[str, Any]:
    return {"include_dashboard": False} if address == LOCAL else {}


def _imported() -> Any:
    try:
        import ray
    except ImportError as error:
        raise RunError("--ray needs Ray, which is not installed: pip install 'fedtune[ray]'") from error
    return ray
