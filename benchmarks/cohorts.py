"""The clients of a recipe as a cohort, each with its own rows and seed, and what trains them."""

from fedtune.recipe import Recipe
from fedtune.training.base import Assignment
from fedtune.training.resident import Resident
from simulations.population import Population


def cohort_of(recipe: Recipe) -> tuple[Resident, list[Assignment]]:
    """A resident of its own, and everybody's share of round 1."""
    home, population = Resident.build(recipe), Population.of(recipe)
    rows = [population.data(name).train for name in population.names]
    return home, [Assignment(name, 1, home.initial, rows[n], seed=n) for n, name in enumerate(population.names)]
