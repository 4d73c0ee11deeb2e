"""What a side costs: CPU seconds of its process and all its children, memory, and the clock, at marks."""

import os
import time
from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
import psutil
import torch
from numpy.typing import NDArray


@dataclass(frozen=True, slots=True)
class Mark:
    """One moment."""

    cpu_s: float
    clock_s: float


@dataclass(frozen=True, slots=True)
class Measured:
    """What one side did with one case."""

    marks: tuple[Mark, ...]
    """Where the first round begins, and the end of each round."""
    state: dict[str, NDArray[np.float32]] = field(repr=False)
    """The adapter after the last round, by the side's own names; empty where results cannot be the same."""
    peak_mb: float
    """Largest resident memory of the side's own process."""

    def steady_cpu_s(self) -> float:
        """CPU seconds of all rounds but the first."""
        return self.marks[-1].cpu_s - self.marks[1].cpu_s


def plain(state: Mapping[str, torch.Tensor]) -> dict[str, NDArray[np.float32]]:
    """An adapter's tensors as arrays, which outlive the process that sends them."""
    return {name: tensor.detach().numpy().copy() for name, tensor in state.items()}


def mark() -> Mark:
    """Now."""
    return Mark(cpu_s(), time.monotonic())


def peak_mb() -> float:
    """Of this process."""
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def cpu_s() -> float:
    """CPU seconds of this process and all its living and finished children."""
    own = time.process_time() + sum(os.times()[2:4])
    for child in psutil.Process().children(recursive=True):
        try:
            times = child.cpu_times()
            own += times.user + times.system
        except psutil.NoSuchProcess:
            continue
    return own
