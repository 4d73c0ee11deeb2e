"""Simulate a recipe: the coordinator's ServerApp over the cohort Grid, in this process."""

from pathlib import Path

from flwr.app import Context, RecordDict

from client.work import Workplace
from fedtune.data.table import with_labels
from fedtune.recipe import Recipe
from server.app import make_app, run_config, run_folder
from server.listener import Listener
from simulations.cohort import CohortGrid, work_with
from simulations.population import Population


def simulate(recipe: Recipe, *, resume: bool = False, listener: Listener | None = None) -> Path:
    """Run `recipe` with virtual clients and return its run folder; raises FedtuneError."""
    recipe = with_labels(recipe)
    population = Population.of(recipe)
    grid = CohortGrid(population.names, work_with(Workplace(population)))
    config = run_config(recipe, resume=resume)
    context = Context(run_id=1, node_id=1, node_config={}, state=RecordDict(), run_config=dict(config))
    make_app(listener or Listener())(grid, context)
    return run_folder(context)
