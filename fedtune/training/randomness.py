"""Seeded dropout: torch's global generators are set for a while, and put back as they were."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch


@contextmanager
def seeded(device: torch.device, seed: int) -> Iterator[None]:
    """Seed the generators of the CPU and of `device`; both go on after as if nothing had been drawn."""
    # Not torch.manual_seed: it re-seeds every device of the machine, and costs twenty times as much.
    restore = [_seed_cpu(seed), *([] if device.type == "cpu" else [_SEED[device.type](device, seed)])]
    try:
        yield
    finally:
        for put_back in restore:
            put_back()


def _seed_cpu(seed: int) -> Callable[[], None]:
    before = torch.get_rng_state()
    torch.default_generator.manual_seed(seed)
    return lambda: torch.set_rng_state(before)


def _seed_cuda(device: torch.device, seed: int) -> Callable[[], None]:
    before = torch.cuda.get_rng_state(device)
    torch.cuda.default_generators[device.index or 0].manual_seed(seed)
    return lambda: torch.cuda.set_rng_state(before, device)


def _seed_mps(_: torch.device, seed: int) -> Callable[[], None]:
    before = torch.mps.get_rng_state()
    torch.mps.manual_seed(seed)
    return lambda: torch.mps.set_rng_state(before)


_SEED: dict[str, Callable[[torch.device, int], Callable[[], None]]] = {"cuda": _seed_cuda, "mps": _seed_mps}
