"""The memory of one client, measured: what a process of its own takes at its peak beyond the imported libraries."""

import json
import re
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import torch

from fedtune.data.table import tables
from fedtune.errors import RunError
from fedtune.recipe import Recipe
from fedtune.runs.atomic import write_atomically
from fedtune.split.base import Share, Smashed, Wants
from fedtune.split.local import Ready
from fedtune.split.outline import outline_of
from fedtune.training.base import Assignment
from fedtune.training.make import local_step
from fedtune.training.resident import resident
from simulations.population import Population

KEPT = "memory.json"
PROCESS = Path("/proc/self/status")
STEPS = 2


class Echo:
    """A body that hands on what it is given: the client's memory does not depend on what the body makes of it."""

    in_flight = 1
    trains = False

    def __init__(self, _: Share) -> None:
        self._wants: dict[int, tuple[int, Wants]] = {}

    def forward(self, number: int, smashed: Smashed, wants: Wants, *, train: bool) -> Ready:
        """The tokens that the tail reads."""
        if train:
            self._wants[number] = smashed.hidden.shape[1], wants
        return Ready(smashed.hidden[:, wants.output].clone())

    def backward(self, number: int, gradient: torch.Tensor) -> Ready:
        """A gradient of the shape that is asked for."""
        tokens, wants = self._wants.pop(number)
        rows, _, width = gradient.shape
        return Ready(torch.zeros(rows, tokens, width)[:, wants.gradient or slice(0)])

    def step(self, factor: float, *, last: bool) -> None:
        """Nothing is trained."""

    def close(self) -> None:
        """Nothing is kept."""


def peaks_of(recipes: Mapping[str, Recipe], folder: Path) -> dict[str, float]:
    """Bytes by name, each measured once and kept in `folder`; none off Linux.

    Raises RunError where a client came to no end.
    """
    if not PROCESS.exists():
        return {}
    kept = folder / KEPT
    found: dict[str, float] = json.loads(kept.read_text()) if kept.exists() else {}
    for name, recipe in recipes.items():
        if name not in found:
            found[name] = _measure(name, recipe)
            write_atomically(kept, json.dumps(found, indent=1).encode())
    return found


def train_one(recipe: Recipe) -> int:
    """Train the recipe's first client for two steps in this process; the bytes of its peak beyond those before.

    Before: with the libraries imported, the rows read, and an empty layer of the model made.
    """
    torch.set_num_threads(1)
    tables(recipe.data, recipe.model, recipe.run.seed)
    outline_of(recipe.model)
    before = _peak()
    training = recipe.training.model_copy(update={"steps": STEPS})
    recipe = recipe.model_copy(update={"training": training})
    home, population = resident(recipe), Population.of(recipe)
    client = population.names[0]
    assignment = Assignment(client, 1, home.initial, population.data(client).train, seed=0)
    list(local_step(home, Echo).train([assignment]))
    return _peak() - before


def _measure(name: str, recipe: Recipe) -> float:
    command = [sys.executable, "-m", "simulations.studies.split_peak"]
    done = subprocess.run(command, input=recipe.model_dump_json(), capture_output=True, text=True, check=False)
    if done.returncode:
        raise RunError(f"{name}: its memory could not be measured: {done.stderr.strip().splitlines()[-1:]}")
    return float(done.stdout.split()[-1])


def _peak() -> int:
    """Bytes of this process's memory at its largest so far, as Linux has it; getrusage would count the parent's too."""
    found = re.search(r"VmHWM:\s+(\d+) kB", PROCESS.read_text())
    return 1024 * int(found[1]) if found else 0


if __name__ == "__main__":
    print(train_one(Recipe.model_validate_json(sys.stdin.read())))
