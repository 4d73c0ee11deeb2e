"""What a simulation says at its start: how many clients share a pass and how it is computed, or why they take turns."""

from fedtune.cohort.fits import fits
from fedtune.cohort.lane import Lane
from fedtune.cohort.passes import pass_for
from fedtune.cohort.room import USUAL, Room
from fedtune.recipe import Recipe
from fedtune.training.resident import resident
from simulations.groups import in_a_group


def sharing(recipe: Recipe, clients: int, room: Room = USUAL) -> str:
    """One sentence about a simulation of `recipe` with so many clients, whose model is resident in this process.

    `room` is for what is kept of rows.
    """
    size = in_a_group(recipe, clients)
    home, private = resident(recipe), recipe.privacy.unit == "example"
    alone = _why_alone(recipe, size)
    if reason := fits(home) or (alone if private else None):
        return _turns(reason, room)
    forward = pass_for(home, Lane(), room)
    if alone is not None:
        return "; ".join((_turns(alone), *forward.notes())) if forward.saves else _turns(alone, room)
    whose = "rows of up to {} clients" if private else "up to {} clients"
    apart = ("each row with a gradient of its own",) if private else ()
    first = f"{whose.format(size)} share each pass through the base model"
    return "; ".join((first, *apart, *forward.notes()))


def _why_alone(recipe: Recipe, size: int) -> str | None:
    """Why nobody is beside a client in a pass, whatever the model; None where others are."""
    if recipe.federation.buffer:
        return "in asynchronous rounds each begins and ends when it does"
    return "a round asks for too few to share passes" if size == 1 else None


def _turns(reason: str, room: Room = USUAL) -> str:
    unkept = "; training keeps nothing of rows" if room.given else ""
    return f"clients take turns, because {reason}{unkept}"
