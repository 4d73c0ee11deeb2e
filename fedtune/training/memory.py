"""Running out of memory, said in a sentence."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from fedtune.errors import TrainingError


@contextmanager
def within_memory(device: torch.device, *, advice: str) -> Iterator[None]:
    """Raise TrainingError, ending in `advice`, where `device` or the machine has no room for what runs inside."""
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        if not ran_out(error):
            raise
        raise TrainingError(f"{device} ran out of memory; {advice}.") from error


def ran_out(error: Exception) -> bool:
    """Was it for want of memory?"""
    # The sentence is all that the CPU's allocator has for a name.
    return isinstance(error, (torch.OutOfMemoryError, MemoryError)) or "can't allocate memory" in str(error)
