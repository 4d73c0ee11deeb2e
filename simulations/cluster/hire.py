"""How many actors a simulation has in a cluster, what each needs, and which recipes cannot be taken there."""

from pathlib import Path
from typing import Any

from client.share import keeps_tensors
from fedtune.aggregation.frame import frame_of
from fedtune.cohort.room import Room
from fedtune.errors import RunError
from fedtune.recipe import Recipe
from fedtune.training.resident import resident
from simulations.cluster.actors import Actors
from simulations.cluster.connect import is_here
from simulations.cluster.desk import Setup
from simulations.cluster.prints import print_of
from simulations.groups import cut_of, group_size, lanes
from simulations.place import kept_in
from simulations.population import Population


def resource_of(ray: Any, recipe: Recipe) -> str:
    """What an actor takes one of: `GPU` where the cluster has some and the recipe may use them, or else `CPU`."""
    may = recipe.training.device == "auto" or recipe.training.device.startswith("cuda")
    return "GPU" if may and ray.cluster_resources().get("GPU", 0) >= 1 else "CPU"


def actors_for(ray: Any, recipe: Recipe, workers: int | None, clients: int) -> int:
    """How many actors: what is asked for, or one for each of the resource, but none that a round had no group for.

    Raises RunError where the cluster has fewer than are asked for, or none.
    """
    resource = resource_of(ray, recipe)
    there = int(ray.cluster_resources().get(resource, 0))
    if not 1 <= (workers or 1) <= there:
        raise RunError(f"the Ray cluster has {there} {resource}s, and an actor takes one: ask for fewer with --workers")
    section = recipe.federation
    if section.buffer:  # each is handed out alone
        return min(workers or there, section.concurrency or clients, clients)
    asked = min(section.clients_per_round or clients, clients)
    return min(workers or there, -(-asked // group_size(asked, lanes(recipe))))


def hire(ray: Any, recipe: Recipe, population: Population, room: Room) -> Actors:
    """Actors with a share of `room` each, which hold what this machine holds.

    Raises RunError where clients keep tensors and the cluster has several disks, and what `Actors` raises.
    """
    if _keeps(recipe) and not is_here(ray):
        raise RunError(
            "clients of this recipe keep tensors on the disk of one machine (error feedback, SCAFFOLD, pruned ranks or "
            "an adapter part of their own), and the Ray cluster is not this machine alone: use --ray local or --workers"
        )
    setup = Setup(
        recipe=recipe.model_dump_json(),
        folder=str(Path.cwd()),
        keep=str(kept_in(recipe)),
        cache_bytes=room.memory_bytes,
        cache_folder=None if room.folder is None else str(room.folder),
        processes=room.processes,
    )
    needs = {"num_cpus": 0, "num_gpus": 1} if resource_of(ray, recipe) == "GPU" else {"num_cpus": 1}
    actors = Actors(ray, setup, needs, cut_of(recipe, population.rows_of))
    try:
        actors.check(print_of(population))
    except BaseException:
        actors.close()
        raise
    return actors


def _keeps(recipe: Recipe) -> bool:
    home = resident(recipe)
    return keeps_tensors(recipe, tuple(frame_of(home.attached, recipe.adapter).shapes))
