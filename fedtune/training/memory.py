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
    except (torch.OutOfMemoryError, MemoryError) as error:
        raise _too_small(device, advice) from error
    except RuntimeError as error:
        if "can't allocate memory" not in str(error):  # all that the CPU's allocator has for a name
            raise
        raise _too_small(device, advice) from error


def _too_small(device: torch.device, advice: str) -> TrainingError:
    return TrainingError(f"{device} ran out of memory; {advice}.")
