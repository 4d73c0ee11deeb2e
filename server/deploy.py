"""A deployed run: the same ServerApp as in simulation, over the link's Grid."""

from pathlib import Path

from flwr.app import Context, RecordDict

from fedtune.data.table import with_labels
from fedtune.recipe import Recipe
from fedtune.split.local import body_copies
from server.app import make_app, run_config, run_folder
from server.keys.credentials import ServerKeys
from server.link.grid import LinkGrid
from server.listener import KnowsRun, Listener
from server.split.set_up import split_service


def serve(recipe: Recipe, *, address: str, keys: Path | None, resume: bool, listener: Listener) -> Path:
    """Listen on `address`, run `recipe` with the clients that come, and return the run folder; raises FedtuneError.

    After an error clients try to reconnect, as after a crash, for as long as their --retry-for says.

    Without `keys` the link is not encrypted and listens on loopback only. A split model's body is served beside it.
    """
    recipe = with_labels(recipe)
    listener = KnowsRun(listener)
    copies = body_copies(recipe)
    beside = [split_service(recipe, run=listener.run, copies=copies)] if recipe.split.active else []
    with LinkGrid(address, ServerKeys(keys) if keys else None, beside=beside) as grid:
        listener.noted(f"listening on {grid.address}" + ("" if keys else "  (NOT ENCRYPTED, loopback only)"))
        context = Context(run_id=1, node_id=1, node_config={}, state=RecordDict(), run_config={})
        context.run_config.update(run_config(recipe, resume=resume))
        # What ends the run early (a full disk, too few replies, the keyboard) ends it without a goodbye: clients stay,
        # and reconnect when the coordinator is started again with --resume.
        make_app(listener, copies)(grid, context)
        grid.close("the run is finished")
        return run_folder(context)
