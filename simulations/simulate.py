"""Simulate a recipe: the coordinator's ServerApp over the cohort Grid, in this process."""

from collections.abc import Callable, Sequence
from contextlib import ExitStack, suppress
from pathlib import Path

import torch
from flwr.app import Context, RecordDict

from fedtune.data.table import with_labels
from fedtune.errors import RunError
from fedtune.recipe import Recipe
from fedtune.runs.checkpoint import Checkpoint
from fedtune.runs.folder import RunFolder
from fedtune.split.copies import BodyCopies
from fedtune.split.local import body_copies
from fedtune.training.device import choose_device
from fedtune.training.resident import resident
from server.app import make_app, run_config, run_folder
from server.listener import Listener
from simulations.bodies import BodiesAlong
from simulations.cluster.connect import connected, machines_of
from simulations.cluster.hire import actors_for, hire
from simulations.cohort import CohortGrid, work_with
from simulations.dealt import Grouped
from simulations.devices.make import make_devices
from simulations.forecast import forecast
from simulations.groups import Answers, cut_of
from simulations.keeping import room_of
from simulations.place import Place, kept_in
from simulations.population import Population
from simulations.sharing import sharing
from simulations.timed import TimedGrid
from simulations.workers import Workers, default_workers


def simulate(
    recipe: Recipe,
    *,
    resume: bool = False,
    listener: Listener | None = None,
    workers: int | None = 1,
    cache_gb: float | None = None,
    cache_folder: Path | None = None,
    ray: str | None = None,
    expect: bool = False,
) -> Path:
    """Run `recipe` with virtual clients and return its run folder; raises FedtuneError.

    `workers` processes share the clients of a round among them, None for one a core; the result does not depend on it.
    `cache_gb` and `cache_folder` say how much memory and which disk they may take for what the frozen layers make of
    rows (`simulations.keeping`); on a CPU the result does not depend on them either. `ray` is the address of a Ray
    cluster (`simulations.cluster`) whose machines they are on, None for forks of this process. With `expect` the
    listener hears at the start how long the rounds will take (`simulations.forecast`), by a trial of a second or two.
    """
    if recipe.federation.buffer and not recipe.simulation.active:
        raise RunError(
            "federation.buffer lets clients work at their own pace, and without [simulation] they have none; set "
            "simulation.rows_per_s, for example 1.0, or take buffer out"
        )
    with ExitStack() as stack:
        cluster = None if ray is None else stack.enter_context(connected(ray))
        device = choose_device(recipe.training.device)
        count = default_workers(device) if workers is None else workers
        if count > 1 or cluster is not None:
            torch.set_num_threads(1)  # before any other use of torch: threads do not survive the fork
        recipe = with_labels(recipe)
        population, copies = Population.of(recipe), body_copies(recipe)
        if resume:
            _recall_factors(recipe)
        if cluster is not None:
            count = actors_for(cluster, recipe, workers, len(population.names))
        machines = 1 if cluster is None else machines_of(cluster)
        said = listener or Listener()
        room = room_of(cache_gb, cache_folder, processes=count, device=device, machines=machines)
        said.noted(sharing(recipe, len(population.names), room))
        answers: Answers
        if cluster is not None:
            said.noted(f"Ray actors: {count}, in a cluster of {machines} machine{'s' * (machines > 1)}")
            answers = stack.enter_context(hire(cluster, recipe, population, room))
        else:
            if expect and (sentence := forecast(population, count, room, done=_rounds_done(recipe) if resume else 0)):
                said.noted(sentence)
            # Loaded before workers are forked, which share its memory.
            place = Place.of(population, copies, keep=kept_in(recipe), room=room, alone=count == 1)
            cut = cut_of(recipe, population.rows_of)
            answers = (
                stack.enter_context(Workers(place.apart, count, cut)) if count > 1 else Grouped(place.workplace, cut)
            )
        if copies and not isinstance(answers, Grouped):
            answers = BodiesAlong(answers, copies)
        return run_with(
            recipe, population.names, answers, sizes=population.sizes, resume=resume, listener=listener, copies=copies
        )


def _recall_factors(recipe: Recipe) -> None:
    """Put a run's broadcast factors in place for its virtual clients, who had them when it ended."""
    kept = _latest(recipe)
    if kept is not None and kept.shared:
        resident(recipe).attached.load_shared(kept.shared)


def _rounds_done(recipe: Recipe) -> int:
    kept = _latest(recipe)
    return 0 if kept is None else kept.round


def _latest(recipe: Recipe) -> Checkpoint | None:
    with suppress(RunError):  # nothing was begun; whatever else is wrong, the coordinator says
        return RunFolder.open(Path(recipe.run.folder) / recipe.run.name).checkpoints.latest()
    return None


def run_with(
    recipe: Recipe,
    names: Sequence[str],
    answers: Answers,
    *,
    sizes: Callable[[str], tuple[int, int]] | None = None,
    resume: bool = False,
    listener: Listener | None = None,
    copies: BodyCopies | None = None,
) -> Path:
    """Run `recipe` over clients of these names, whom `answers` answers for; returns the run folder.

    A virtual clock runs where the recipe simulates devices and `sizes` says how many rows a client learns from and
    how many it holds out. `copies` are those of a split model's body, where the recipe trains it.
    """
    grid = CohortGrid(names, work_with(answers))
    if recipe.simulation.active and sizes is not None:
        grid = TimedGrid(names, work_with(answers), make_devices(recipe, names, sizes))
    config = run_config(recipe, resume=resume)
    context = Context(run_id=1, node_id=1, node_config={}, state=RecordDict(), run_config=dict(config))
    make_app(listener or Listener(), copies)(grid, context)
    return run_folder(context)
