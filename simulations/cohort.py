"""The cohort Grid: a Flower Grid whose clients are virtual and work in this process, when their replies are pulled."""

from collections.abc import Callable, Iterable, Iterator, Sequence

from flwr.app import Context, RecordDict
from flwr.clientapp import ClientApp

from client.work import Workplace
from fedtune.wire.envelope import MAX_MESSAGE_BYTES
from protos.flower import Message, OwnGrid, fresh_message_id, isolate, make_reply, stamp
from protos.names import node_id
from protos.payload import from_content, to_content

Handler = Callable[[Sequence[tuple[str, Message]]], Iterator[Message]]
"""Turns (client name, message) pairs into replies, in order; it may work on several clients at once."""


class CohortGrid(OwnGrid):
    """Virtual clients behind Flower's Grid interface.

    Work is done in `pull_messages`, a chunk of clients at a time, so that no more than a chunk of replies is ever
    held; nothing depends on wall-clock time (`virtual`).
    """

    virtual = True

    def __init__(self, names: Sequence[str], handler: Handler, *, chunk: int = 1, run_id: int = 1) -> None:
        super().__init__(run_id)
        self._names = {node_id(name): name for name in names}
        self._handler = handler
        self._chunk = chunk
        self._waiting: dict[str, Message] = {}

    def name_of(self, node: int) -> str:
        """The client's name."""
        return self._names[node]

    def get_node_ids(self) -> Iterable[int]:
        """Every virtual client is always there."""
        return list(self._names)

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        """Take messages in; the work waits until somebody pulls."""
        taken = [
            stamp(isolate(message), message_id=message.metadata.message_id or fresh_message_id())
            for message in messages
        ]
        self._waiting.update({message.metadata.message_id: message for message in taken})
        return [message.metadata.message_id for message in taken]

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        """Work on the next chunk of the messages asked for, and return its replies."""
        chosen = [key for key in message_ids if key in self._waiting][: self._chunk]
        chunk = [self._waiting.pop(key) for key in chosen]
        jobs = [(self._names[message.metadata.dst_node_id], message) for message in chunk]
        return list(self._handler(jobs)) if jobs else []

    def send_and_receive(self, messages: Iterable[Message], *, timeout: float | None = None) -> Iterable[Message]:
        """Push, work through everything, return all replies; virtual clients are never late."""
        ids = list(self.push_messages(messages))
        replies: list[Message] = []
        while len(replies) < len(ids):
            replies += self.pull_messages(ids)
        return replies

    def forget(self, message_ids: Iterable[str]) -> None:
        """Drop messages that nobody will pull: their clients never work on them."""
        for key in message_ids:
            self._waiting.pop(key, None)


def work_with(workplace: Workplace) -> Handler:
    """A handler that lets a workplace answer fedtune's own tasks, a chunk of clients at once."""

    def handle(jobs: Sequence[tuple[str, Message]]) -> Iterator[Message]:
        payloads = [(name, from_content(message.content, max_bytes=MAX_MESSAGE_BYTES)) for name, message in jobs]
        for (_, message), reply in zip(jobs, workplace.answer_all(payloads), strict=True):
            yield make_reply(to_content(reply), message)

    return handle


def work_with_app(app: ClientApp, contexts: Callable[[str, int], Context]) -> Handler:
    """A handler that runs any Flower `ClientApp`, client after client; `contexts(name, node_id)` makes each's own."""
    kept: dict[str, Context] = {}

    def handle(jobs: Sequence[tuple[str, Message]]) -> Iterator[Message]:
        for name, message in jobs:
            node = message.metadata.dst_node_id
            if name not in kept:
                kept[name] = contexts(name, node)
            yield stamp(app(message, kept[name]), src_node_id=node)

    return handle


def plain_context(name: str, node: int) -> Context:
    """A Flower context that knows the client's name and nothing else."""
    return Context(run_id=1, node_id=node, node_config={"client-name": name}, state=RecordDict(), run_config={})
