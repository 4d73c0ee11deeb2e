"""The Flower ClientApp: tasks in, replies out, whichever runtime carries them."""

import threading
from pathlib import Path

from flwr.app import Context, Message
from flwr.clientapp import ClientApp

from client.local_data import LocalData
from client.work import Workplace
from fedtune.errors import DataError
from fedtune.wire.envelope import MAX_MESSAGE_BYTES
from protos.flower import make_reply
from protos.payload import from_content, to_content

_places: dict[tuple[str, str | None], Workplace] = {}
_lock = threading.Lock()


def place(context: Context) -> Workplace:
    """This process's workplace for the data and model that its own node configuration names."""
    data = context.node_config.get("data")
    if not data:
        raise DataError("this node has no data: start it with --node-config 'data=\"/path/to/rows.jsonl\"'")
    model = context.node_config.get("model")
    key = (str(data), str(model) if model else None)
    with _lock:
        if key not in _places:
            _places[key] = Workplace(LocalData(Path(key[0])), model=key[1])
        return _places[key]


def answer(message: Message, context: Context) -> Message:
    """Answer one task on this node's own rows; the model stays in the process for the next one."""
    name = str(context.node_config.get("client-name", f"node-{context.node_id}"))
    task = from_content(message.content, max_bytes=MAX_MESSAGE_BYTES)
    return make_reply(to_content(place(context).answer(name, task)), message)


app = ClientApp()
app.train()(answer)
app.evaluate()(answer)
