"""How many clients a recipe asks how often, before anything runs."""

from dataclasses import dataclass

from fedtune.privacy.plan import Plan
from fedtune.recipe import Recipe


@dataclass(frozen=True, slots=True)
class Schedule:
    """Who is asked, as far as the recipe knows."""

    population: int
    """Clients in all."""
    clients: float
    """Clients that train in a round; in the mean where privacy draws them, the buffer of asynchronous rounds."""
    rounds: int
    evaluated: tuple[int, ...]
    """The rounds after which clients score the state on rows that they hold out."""
    scored: int
    """Clients that do so."""


def schedule_of(recipe: Recipe, plan: Plan | None) -> Schedule:
    """The schedule of a recipe and its privacy plan."""
    section = recipe.federation
    enrolled = max(section.min_clients, recipe.privacy.population)
    population = recipe.data.partition.clients if recipe.data.source else enrolled
    return Schedule(
        population=population,
        clients=_clients(recipe, plan, population),
        rounds=section.rounds,
        evaluated=_evaluated(recipe),
        scored=min(section.evaluate_clients or population, population),
    )


def _clients(recipe: Recipe, plan: Plan | None, population: int) -> float:
    if plan is not None and plan.sampler == "poisson-clients":
        return plan.sampling_rate * population
    if plan is not None and plan.sampler == "separated":
        return population / plan.separation
    section = recipe.federation
    return min(section.buffer or section.clients_per_round or population, population)


def _evaluated(recipe: Recipe) -> tuple[int, ...]:
    section, privacy = recipe.federation, recipe.privacy
    if not recipe.data.holdout_fraction or (privacy.unit != "none" and privacy.metrics != "noised"):
        return ()
    every = section.evaluate_every or section.rounds
    return tuple(sorted({0, section.rounds, *range(every, section.rounds, every)}))
