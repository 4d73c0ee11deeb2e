"""The first global state: what the adapter's initialisation gives, after gradients where it asks for them."""

from fedtune.aggregation import Global
from fedtune.recipe import Recipe
from fedtune.state import State
from fedtune.training.resident import Resident
from server.exchange import Exchange
from server.gradients import private_gradients, public_gradients
from server.listener import Listener
from server.tasking import Tasking

_NOTES: dict[str, str] = {
    "private-gradient": "adapter.init = 'private-gradient': the clients' own gradients shape the adapter",
    "dp-gradient": "adapter.init = 'dp-gradient': the clients' gradients, clipped and noised by row, shape the adapter",
}
"""What is said of the starts that ask the clients."""


def first_state(
    recipe: Recipe, home: Resident, exchange: Exchange, tasking: Tasking, names: list[str], listener: Listener
) -> None:
    """Bring the adapter on the coordinator's own model into its initial state."""
    if recipe.adapter.init == "public-gradient":
        home.attached.initialise(public_gradients(recipe, home))
    elif note := _NOTES.get(recipe.adapter.init):
        listener.noted(note)
        home.attached.initialise(private_gradients(recipe, home, exchange, tasking, names, listener))


def first_world(recipe: Recipe, state: State) -> Global:
    """What the first round starts from: the adapter as it was initialised, and zero control variates for SCAFFOLD."""
    control = {name: tensor.new_zeros(tensor.shape) for name, tensor in state.items()}
    return Global(state, control=control if recipe.training.scaffold else {})
