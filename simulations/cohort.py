"""The cohort Grid: a Flower Grid whose clients are virtual and work on this machine, when their replies are pulled."""

from collections.abc import Callable, Iterable, Iterator, Sequence

from flwr.app import Context, RecordDict
from flwr.clientapp import ClientApp

from fedtune.wire.envelope import MAX_MESSAGE_BYTES
from protos.flower import Message, OwnGrid, fresh_message_id, isolate, make_reply, stamp
from protos.names import node_id
from protos.payload import from_content, to_content
from simulations.groups import Answers

Handler = Callable[[Sequence[tuple[str, Message]]], Iterator[Message]]
"""Turns (client name, message) pairs into replies, in order; it may work on several clients at once."""


class CohortGrid(OwnGrid):
    """Virtual clients behind Flower's Grid interface.

    Work is done when replies are pulled, one reply a pull, so that few are ever held; nothing depends on wall-clock
    time (`virtual`).
    """

    virtual = True

    def __init__(self, names: Sequence[str], handler: Handler, *, run_id: int = 1) -> None:
        super().__init__(run_id)
        self._names = {node_id(name): name for name in names}
        self._handler = handler
        self._waiting: dict[str, Message] = {}
        self._working: Iterator[Message] = iter(())
        self._done: dict[str, Message] = {}

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
        """Work until one of the replies asked for is there, and return it; nothing where none is to come."""
        wanted = set(message_ids)
        for key in wanted & self._done.keys():
            return [self._done.pop(key)]
        while (reply := self._next_reply()) is not None:
            key = reply.metadata.reply_to_message_id
            if key in wanted:
                return [reply]
            self._done[key] = reply
        return []

    def send_and_receive(self, messages: Iterable[Message], *, timeout: float | None = None) -> Iterable[Message]:
        """Push, work through everything, return all replies; virtual clients are never late."""
        ids = list(self.push_messages(messages))
        return [reply for _ in ids for reply in self.pull_messages(ids)]

    def forget(self, message_ids: Iterable[str]) -> None:
        """Drop messages that nobody will pull; clients that have not begun never work on them."""
        dropped = set(message_ids)
        if self._working is not None and hasattr(self._working, "close"):
            self._working.close()
        self._working = iter(())
        self._waiting = {key: message for key, message in self._waiting.items() if key not in dropped}
        self._done = {key: reply for key, reply in self._done.items() if key not in dropped}

    def _next_reply(self) -> Message | None:
        reply = next(self._working, None)
        if reply is None and self._waiting:
            jobs = [(self._names[m.metadata.dst_node_id], m) for m in self._waiting.values()]
            self._waiting = {}
            self._working = iter(self._handler(jobs))
            reply = next(self._working, None)
        return reply


def work_with(answers: Answers) -> Handler:
    """A handler that lets a workplace, or workers, answer fedtune's own tasks."""

    def handle(jobs: Sequence[tuple[str, Message]]) -> Iterator[Message]:
        payloads = [(name, from_content(message.content, max_bytes=MAX_MESSAGE_BYTES)) for name, message in jobs]
        for (_, message), reply in zip(jobs, answers.answer_all(payloads), strict=True):
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
