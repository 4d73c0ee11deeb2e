"""The first global state: what the adapter's initialisation gives, after gradients where it asks for them."""

from fedtune.recipe import Recipe
from fedtune.training.resident import Resident
from server.exchange import Exchange
from server.gradients import private_gradients, public_gradients
from server.listener import Listener
from server.tasking import Tasking


def first_state(
    recipe: Recipe, home: Resident, exchange: Exchange, tasking: Tasking, names: list[str], listener: Listener
) -> None:
    """Bring the adapter on the coordinator's own model into its initial state."""
    if recipe.adapter.init == "public-gradient":
        home.attached.initialise(public_gradients(recipe, home))
    elif recipe.adapter.init == "private-gradient":
        listener.noted("adapter.init = 'private-gradient': the clients' own gradients shape the adapter from the start")
        home.attached.initialise(private_gradients(recipe, home, exchange, tasking, names, listener))
