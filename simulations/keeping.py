"""How much room a simulation's processes have for what they keep of rows, from what a person asks for."""

from pathlib import Path

import torch

from fedtune.cohort.room import Room, gigabytes, total_memory
from fedtune.cohort.spill import unnamed
from fedtune.errors import RunError


def room_of(gb: float | None, folder: Path | None, *, processes: int, device: torch.device, machines: int = 1) -> Room:
    """The room that `--cache-gb` and `--cache-folder` ask for, shared by so many processes on so many machines like
    this one.

    Raises RunError where there is not so much memory, or no file can be made in the folder.
    """
    memory_bytes = None if gb is None else gigabytes(gb, _memory(device) * machines)
    if folder is not None:
        folder = folder.absolute()
        _check(folder)
    return Room(memory_bytes, folder, processes)


def _memory(device: torch.device) -> int:
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[1])
    return total_memory()


def _check(folder: Path) -> None:
    try:
        unnamed(folder).close()
    except OSError as error:
        reason = error.strerror or error
        raise RunError(f"--cache-folder {folder} cannot be written to ({reason}); name a folder that can") from error
