"""A client's stay with a coordinator: the Flower ClientApp behind the link, on this machine's own rows."""

from collections.abc import Mapping
from pathlib import Path

import click
from flwr.app import Context, Message, RecordDict

from client.app import app
from client.app import place as workplace
from client.link.credentials import ClientKeys
from client.link.session import LinkClient
from fedtune.data.locate import read_source
from fedtune.errors import DataError, RunError
from protos.flower import set_identity
from protos.names import node_id


def stay(
    coordinator: str, data: Path, *, keys: Path | None, place: Mapping[str, str | int], name: str, retry_for_s: float
) -> str:
    """Work for the coordinator until it says goodbye, and return what it says.

    `place` is this client's own choice of `model`, `max-rank`, `keep`, `policy`, `budget` and `cache-gb`; empty values
    are left to the defaults.

    Raises FedtuneError; also at the end, where the last task did not fit this client's rows or model, so that a client
    that took no part does not look like one that did.
    """
    _check_readable(data)
    bundle = ClientKeys(keys) if keys else None
    own_name = bundle.name if bundle else name
    set_identity(1, node_id(own_name))
    config: dict[str, str | float | int | bool] = {
        "client-name": own_name,
        "data": str(data.resolve()),
        "coordinator": coordinator,
        "keys": str(keys.resolve()) if keys else "",
        "retry-for": retry_for_s,
    }
    config |= {key: value for key, value in place.items() if value}
    context = Context(run_id=1, node_id=node_id(own_name), node_config=config, state=RecordDict(), run_config={})

    workplace(context)  # a policy that cannot be read is said before a coordinator counts on this client

    def handle(message: Message) -> Message:
        return app(message, context)

    link = LinkClient(
        coordinator,
        bundle,
        handle,
        name=name,
        retry_for_s=retry_for_s,
        told=lambda sentence: click.echo(f"{own_name}: {sentence}", err=True),
    )
    try:
        farewell = link.run()
    except KeyboardInterrupt:
        return "stopped"
    if trouble := workplace(context).trouble:
        raise RunError(f"{trouble} (this client took no part in the last round; the coordinator: {farewell})")
    if declined := workplace(context).declined:
        return f"{farewell} (the last task was declined: {declined})"
    return farewell


def _check_readable(data: Path) -> None:
    """Refuse a file that nobody could read before a coordinator counts on it; its columns are the recipe's affair."""
    if not data.exists():
        raise DataError(f"{data} does not exist; --data names this client's own file or folder")
    if data.is_file():
        read_source(str(data), "train")
