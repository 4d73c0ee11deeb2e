"""The Flower ClientApp: tasks in, replies out, whichever runtime carries them."""

import threading
from pathlib import Path

from flwr.app import Context, Message
from flwr.clientapp import ClientApp

from client.heads import Heads
from client.link.credentials import ClientKeys
from client.local_data import LocalData
from client.policy.set_up import book_folder, set_up_guard
from client.split.remote import RETRY_FOR_S, remote_bodies
from client.work import Workplace
from fedtune.cohort.room import USUAL, Room, gigabytes, total_memory
from fedtune.errors import DataError
from fedtune.runs.kept import Keep, default_folder
from fedtune.split.base import Body, OpenBody, Share
from fedtune.wire.envelope import MAX_MESSAGE_BYTES
from protos.flower import make_reply
from protos.payload import from_content, to_content

_places: dict[tuple[tuple[str, str], ...], Workplace] = {}
_lock = threading.Lock()


def place(context: Context) -> Workplace:
    """This process's workplace for what its own node configuration names.

    `data` is required; `model`, `keep`, `max-rank`, `policy`, `budget`, `cache-gb`, `coordinator`, `keys` and
    `retry-for` are as the options of `fedtune client`; without `coordinator` no split model can be trained. Raises
    DataError without data, PrivacyError where the policy cannot be read, RunError where there is not so much memory.
    """
    data = context.node_config.get("data")
    if not data:
        raise DataError("this node has no data: start it with --node-config 'data=\"/path/to/rows.jsonl\"'")
    with _lock:
        key = tuple(sorted((name, str(value)) for name, value in context.node_config.items()))
        if key not in _places:
            _places[key] = _set_up(dict(key))
        return _places[key]


def _set_up(config: dict[str, str]) -> Workplace:
    data, books = Path(config["data"]), book_folder(Path(config["budget"]) if config.get("budget") else None)
    policy = Path(config["policy"]) if config.get("policy") else None
    return Workplace(
        LocalData(data),
        model=config.get("model") or None,
        keep=Keep(Path(config["keep"]) if config.get("keep") else default_folder()),
        max_rank=int(config["max-rank"]) if config.get("max-rank") else None,
        guard=set_up_guard(data, policy, books, coordinator=config.get("coordinator", "")),
        heads=Heads(books / "heads"),
        open_body=_bodies(config),
        room=_room(config.get("cache-gb", "")),
    )


def _room(gb: str) -> Room:
    """For what is kept of the rows: in memory alone, for they are private."""
    return Room(gigabytes(float(gb), total_memory())) if gb else USUAL


def _bodies(config: dict[str, str]) -> OpenBody | None:
    """Where the body of a split model is: with the coordinator of our own link; Flower's runtime names none."""
    if not config.get("coordinator"):
        return None
    retry_for_s = float(config.get("retry-for") or RETRY_FOR_S)

    def open_body(share: Share) -> Body:
        keys = ClientKeys(Path(config["keys"])) if config.get("keys") else None
        return remote_bodies(config["coordinator"], keys, retry_for_s=retry_for_s)(share)

    return open_body


def answer(message: Message, context: Context) -> Message:
    """Answer one task on this node's own rows; the model stays in the process for the next one."""
    name = str(context.node_config.get("client-name", f"node-{context.node_id}"))
    task = from_content(message.content, max_bytes=MAX_MESSAGE_BYTES)
    return make_reply(to_content(place(context).answer(name, task)), message)


app = ClientApp()
app.train()(answer)
app.evaluate()(answer)
