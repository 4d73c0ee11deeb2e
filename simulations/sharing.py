"""What a simulation says at its start: how many clients share a pass and how it is computed, or why they take turns."""

from fedtune.cohort.step import CohortStep
from fedtune.recipe import Recipe
from fedtune.training.resident import resident
from simulations.groups import group_size


def sharing(recipe: Recipe, clients: int) -> str:
    """One sentence about a simulation of `recipe` with so many clients, whose model is resident in this process."""
    if recipe.privacy.unit == "example":
        return _turns("each row's gradient is clipped by itself")
    size = group_size(min(recipe.federation.clients_per_round or clients, clients))
    step = CohortStep(resident(recipe))
    if step.turns is not None:
        return _turns(step.turns)
    if size == 1:
        return _turns("a round asks for too few to share passes")
    return "; ".join((f"up to {size} clients share each pass through the base model", *step.notes()))


def _turns(reason: str) -> str:
    return f"clients take turns, because {reason}"
