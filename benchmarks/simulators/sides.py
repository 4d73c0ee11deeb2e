"""The sides of the comparison, each run in a process of its own."""

import importlib.util
import multiprocessing
import os
import tempfile
import time
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path

import torch

from benchmarks.simulators import bare, fedtune_side, flower_side, pfl_side
from benchmarks.simulators.case import Case
from benchmarks.simulators.measure import Measured, mark
from benchmarks.simulators.watch import Watch

SIDES: dict[str, Callable[[Case, Path], Measured]] = {
    "fedtune": fedtune_side.run,
    "bare": bare.run,
    "pfl": pfl_side.run,
    "flower": flower_side.run,
}
NEEDS = {"pfl": "pfl", "flower": "ray"}


Took = tuple[Measured, float, float]
"""What a side did; the CPU and clock seconds of its whole process."""


def installed(name: str) -> bool:
    """Is what a side needs there?"""
    return name not in NEEDS or importlib.util.find_spec(NEEDS[name]) is not None


def measured(name: str, case: Case) -> Took | None:
    """What a side did in a fresh process; None where it failed, and said why itself."""
    environment = {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "FLWR_TELEMETRY_ENABLED": "0"}
    os.environ.update(environment, TOKENIZERS_PARALLELISM="false")
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    begun = time.monotonic()
    process = context.Process(target=_work, args=(name, case, theirs))
    process.start()
    watch = Watch(process.pid)
    theirs.close()  # so that a side that dies is an end of the stream
    try:
        result, cpu_s = ours.recv()
    except EOFError:
        return None
    finally:
        seen_s = watch.stop()
    process.join()
    return result, max(cpu_s, seen_s), time.monotonic() - begun


def _work(name: str, case: Case, end: Connection) -> None:
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        result = SIDES[name](case, Path(folder))
        end.send((result, mark().cpu_s))
