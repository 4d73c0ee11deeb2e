"""How much room there is for what is kept of rows: memory, and a disk where one is named."""

import os
import shutil
from dataclasses import dataclass
from pathlib import Path

import torch

from fedtune.cohort.spill import Spill


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
        much.
        """
        if self.memory_bytes is not None:
            return self.memory_bytes // self.processes
        if device.type == "cuda":
            return int(torch.cuda.mem_get_info(device)[0]) // 4
        return os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // (4 * (os.cpu_count() or 1))

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


USUAL = Room()
"""Where nobody says what the room is to be."""
