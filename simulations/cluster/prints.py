"""A print of what a machine holds for a run: two machines with the same code, model and rows have the same."""

import hashlib

import numpy as np

from fedtune import __version__
from fedtune.training.resident import resident
from simulations.population import Population

LOOKED_AT = 64
"""Rows, and clients, that are looked at in full."""


def print_of(population: Population) -> str:
    """BLAKE2b-128 of fedtune's version, the model's fingerprint, all lengths and classes, and some rows and parts."""
    rows, parts = population.rows, population.parts
    made = hashlib.blake2b(digest_size=16)
    made.update(f"{__version__} {resident(population.recipe).loaded.fingerprint} {len(rows)} {len(parts)}".encode())
    made.update(rows.lengths.tobytes())
    if rows.classes is not None:
        made.update(rows.classes.tobytes())
    for row in _some(len(rows)):
        for name, tensor in sorted(rows.batch([row]).items()):
            made.update(name.encode() + tensor.numpy().tobytes())
    for part in _some(len(parts)):
        made.update(np.array(parts[part], dtype=np.int64).tobytes())
    return made.hexdigest()


def _some(count: int) -> list[int]:
    """Up to `LOOKED_AT` positions, evenly spaced."""
    return sorted({position * count // LOOKED_AT for position in range(LOOKED_AT)}) if count else []
