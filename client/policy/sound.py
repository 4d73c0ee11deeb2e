"""Does a coordinator's recipe keep the recipe's own rules? A client does not take the coordinator's word for it."""

from client.policy.declined import UnsoundRecipe
from fedtune.recipe import Recipe
from fedtune.recipe.rules import broken_as_told

SHOWN = 3
"""Broken rules that the coordinator is told; the others are counted."""


def check_sound(recipe: Recipe) -> None:
    """Raise UnsoundRecipe where the recipe that a task came with mixes what fedtune refuses to mix.

    A coordinator reads its recipe by the same rules, so that one which breaks them was changed since, or is another
    program's. The sentences quote the recipe alone, which is the coordinator's own.
    """
    broken = [problem.sentence for problem in broken_as_told(recipe)]
    if broken:
        more = len(broken) - SHOWN
        said = "; ".join(broken[:SHOWN]) + (f"; and {more} more" if more > 0 else "")
        raise UnsoundRecipe(f"the recipe breaks a rule that clients hold it to: {said}")
