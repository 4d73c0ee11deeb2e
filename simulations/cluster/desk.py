"""What runs in an actor: a workplace of its own, on whichever machine of the cluster, built from a recipe's text."""

import json
import os
import socket
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path

from simulations.cluster.packs import join, split_jobs
from simulations.groups import Answers


@dataclass(frozen=True, slots=True)
class Setup:
    """What an actor is told at its start."""

    recipe: str
    """The resolved recipe, as JSON."""
    folder: str
    """Where the run was started: paths in the recipe are relative to it, where the machine has it."""
    keep: str
    """The folder of what clients keep to themselves."""
    cache_bytes: int | None
    cache_folder: str | None
    processes: int

    def to_text(self) -> str:
        """As JSON."""
        return json.dumps(asdict(self))


class Desk:
    """Answers groups of tasks, one thread, one copy of the base model. Text and bytes go in and come out."""

    def __init__(self) -> None:
        self._answers: Answers | None = None

    def open(self, setup: str) -> str:
        """Load what `Setup` names; JSON: the machine's `host`, and a `print` of what it holds or an `error`."""
        host = socket.gethostname()
        from fedtune.errors import FedtuneError

        try:
            return json.dumps({"host": host, "print": self._load(Setup(**json.loads(setup)))})
        except (FedtuneError, OSError) as error:
            return json.dumps({"host": host, "error": str(error)})

    def answer(self, group: bytes) -> bytes:
        """The replies of a group, in order."""
        if self._answers is None:
            raise RuntimeError("the desk is not open")
        return join(self._answers.answer_all(split_jobs(group)))

    def _load(self, setup: Setup) -> str:
        import torch

        from fedtune.cohort.room import Room
        from fedtune.recipe import Recipe
        from fedtune.split.local import body_copies
        from simulations.cluster.prints import print_of
        from simulations.place import Place
        from simulations.population import Population

        torch.set_num_threads(1)
        with suppress(OSError):
            os.chdir(setup.folder)
        recipe = Recipe.model_validate_json(setup.recipe)
        folder = None if setup.cache_folder is None else Path(setup.cache_folder)
        room = Room(setup.cache_bytes, folder, setup.processes)
        population, copies = Population.of(recipe), body_copies(recipe)
        place = Place.of(population, copies, keep=Path(setup.keep), room=room, alone=False)
        self._answers = place.apart
        return print_of(population)
