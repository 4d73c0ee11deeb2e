"""How much room there is for what is kept of rows: memory, and a disk where one is named."""

import os
import shutil
from dataclasses import dataclass
from pathlib import Path

import torch

from fedtune.cohort.spill import Spill
from fedtune.errors import RunError

GB = 10**9
CGROUPS = Path("/sys/fs/cgroup")
"""Where a container sees its own limits (Linux, control groups 2)."""


@dataclass(frozen=True, slots=True)
class Room:
    """What all processes of a run together may take for kept rows; each takes an even share.

    On a CPU it changes no number, for what a row is computed with is fixed there; on other devices the last digits.
    """

    memory_bytes: int | None = None
    """None: a share of the free memory. 0: nothing is kept in memory."""
    folder: Path | None = None
    """A folder on the disk where rows go that memory has no room for; None: nowhere."""
    processes: int = 1

    @property
    def given(self) -> bool:
        """Did somebody say what the room is to be?"""
        return self.memory_bytes is not None or self.folder is not None

    @property
    def none(self) -> bool:
        """Is nothing to be kept?"""
        return self.memory_bytes == 0 and self.folder is None

    def memory(self, device: torch.device) -> int:
        """The bytes that this process may take on the device.

        Unless it is said: a quarter of those that nobody uses; of a CPU's memory a process a core may come to want as
        much (workers of a simulation, or other clients and other programs beside a deployed one).
        """
        if self.memory_bytes is not None:
            return self.memory_bytes // self.processes
        if device.type == "cuda":
            return int(torch.cuda.mem_get_info(device)[0]) // 4
        return free_memory() // (4 * (os.cpu_count() or 1))

    def spill(self, device: torch.device) -> Spill | None:
        """This process's place on disk, up to its share of half of what is free there; None where none is named."""
        if self.folder is None:
            return None
        try:
            free = shutil.disk_usage(self.folder).free
        except OSError:
            free = 0
        return Spill(self.folder, free // (2 * self.processes), device)

    def words(self) -> str:
        """Where rows are kept, to stand behind what is; empty where nobody said."""
        places = [f"in up to {self.memory_bytes / 1e9:g} GB of memory"] if self.memory_bytes else []
        if self.folder is not None:
            places.append(f"on the disk of {self.folder}")
        return " and ".join(places)


def gigabytes(gb: float, total: int) -> int:
    """The bytes of `--cache-gb`, of so many that there are; raises RunError where it is none or there is less."""
    if not 0 <= gb * GB <= total:
        raise RunError(f"--cache-gb must be between 0 and the {total / GB:.0f} GB of memory here, not {gb:g}")
    return round(gb * GB)


def total_memory() -> int:
    """The bytes of this machine's main memory."""
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def free_memory(groups: Path = CGROUPS) -> int:
    """The bytes of main memory that nobody uses, and that the process may take.

    A container or a service may have a limit of its own, below `groups`: what is left under it, files that it has read
    not counted, for the system drops those.
    """
    free = os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    try:
        limit, used = (int((groups / f"memory.{name}").read_text()) for name in ("max", "current"))
        files = dict(line.split() for line in (groups / "memory.stat").read_text().splitlines())["inactive_file"]
    except (OSError, ValueError, KeyError):
        return free  # no limit, or another system
    return max(0, min(free, limit - used + int(files)))


USUAL = Room()
"""Where nobody says what the room is to be."""
