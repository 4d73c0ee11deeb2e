"""What a simulation says at its start: how many clients share a pass, or why they take turns."""

from fedtune.cohort.fits import fits
from fedtune.recipe import Recipe
from fedtune.training.resident import resident
from simulations.groups import group_size


def sharing(recipe: Recipe, clients: int) -> str:
    """One sentence about a simulation of `recipe` with so many clients, whose model is resident in this process."""
    size = group_size(min(recipe.federation.clients_per_round or clients, clients))
    reason = fits(resident(recipe))
    if recipe.privacy.unit == "example":
        reason = "each row's gradient is clipped by itself"
    if size == 1 and reason is None:
        reason = "a round asks for too few to share passes"
    if reason is not None:
        return f"clients take turns, because {reason}"
    return f"up to {size} clients share each pass through the base model"
