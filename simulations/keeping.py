"""How much room a simulation's processes have for what they keep of rows, from what a person asks for."""

import os
from pathlib import Path

import torch

from fedtune.cohort.room import Room
from fedtune.cohort.spill import unnamed
from fedtune.errors import RunError

GB = 10**9


def room_of(gb: float | None, folder: Path | None, *, processes: int, device: torch.device, machines: int = 1) -> Room:
    """The room that `--cache-gb` and `--cache-folder` ask for, shared by so many processes on so many machines like
    this one.

    Raises RunError where there is not so much memory, or no file can be made in the folder.
    """
    if gb is not None:
        total = _memory(device) * machines
        if not 0 <= gb * GB <= total:
            raise RunError(f"--cache-gb must be between 0 and the {total / GB:.0f} GB of memory here, not {gb:g}")
    if folder is not None:
        folder = folder.absolute()
        _check(folder)
    return Room(None if gb is None else round(gb * GB), folder, processes)


def _memory(device: torch.device) -> int:
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[1])
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def _check(folder: Path) -> None:
    try:
        unnamed(folder).close()
    except OSError as error:
        reason = error.strerror or error
        raise RunError(f"--cache-folder {folder} cannot be written to ({reason}); name a folder that can") from error
