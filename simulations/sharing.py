"""What a simulation says at its start: how many clients share a pass and how it is computed, or why they take turns."""

from fedtune.cohort.fits import fits
from fedtune.cohort.lane import Lane
from fedtune.cohort.passes import pass_for
from fedtune.cohort.room import USUAL, Room
from fedtune.recipe import Recipe
from fedtune.training.resident import resident
from simulations.groups import group_size


def sharing(recipe: Recipe, clients: int, room: Room = USUAL) -> str:
    """One sentence about a simulation of `recipe` with so many clients, whose model is resident in this process.

    `room` is for what is kept of rows.
    """
    if recipe.federation.buffer:
        return _turns("in asynchronous rounds each begins and ends when it does", room)
    size = group_size(min(recipe.federation.clients_per_round or clients, clients))
    home, private = resident(recipe), recipe.privacy.unit == "example"
    reason = fits(home, drops=not private)
    if reason is not None:
        return _turns(reason, room)
    if size == 1:
        return _turns("a round asks for too few to share passes", room)
    whose = "rows of up to {} clients" if private else "up to {} clients"
    apart = ("each row with a gradient of its own",) if private else ()
    first = f"{whose.format(size)} share each pass through the base model"
    return "; ".join((first, *apart, *pass_for(home, Lane(), room).notes()))


def _turns(reason: str, room: Room) -> str:
    unkept = "; training keeps nothing of rows" if room.given else ""
    return f"clients take turns, because {reason}{unkept}"
