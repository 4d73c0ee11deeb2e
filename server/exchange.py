"""Send bytes to clients and yield their replies as they come, until all are there or the deadline has passed."""

import math
import time
from collections.abc import Generator, Iterable, Mapping
from dataclasses import dataclass

from flwr.app import Message
from flwr.serverapp import Grid

from fedtune.errors import MalformedMessage, OversizeMessage
from protos.flower import make_message
from protos.payload import from_content, to_content
from server.clock import RunClock
from server.roster import Roster

_POLL_S = 0.2


@dataclass(frozen=True, slots=True)
class Reply:
    """What came back from one asked client, or did not."""

    client: str
    data: bytes
    """The encoded reply; empty where there is a failure."""
    failure: str
    """A short stable name (`late`, `unavailable`, `malformed-message`, …), or empty."""
    detail: str
    seconds: float
    virtual: bool = False
    """Are the seconds those of a virtual clock?"""


class Exchange:
    """One grid, asked the same way whatever carries its messages."""

    def __init__(self, grid: Grid, roster: Roster, *, max_bytes: int) -> None:
        self._grid = grid
        self._roster = roster
        self._max_bytes = max_bytes
        self.clock = RunClock(grid)
        self.bytes_down = 0
        """Bytes of all payloads sent so far, whatever for."""
        self.bytes_up = 0
        """Bytes of all replies taken in so far."""

    def ask(
        self, payloads: Mapping[str, bytes], *, message_type: str, round_: int, deadline_s: float
    ) -> Generator[Reply, None, None]:
        """Send each client its payload and yield replies as they arrive; who has not replied by then is `late`.

        A grid that knows no time (the cohort without simulated devices) has no deadline. Closing the iterator early
        drops what is open.
        """
        start = self.clock.now()
        end = math.inf if self.clock.endless else start + deadline_s
        self.bytes_down += sum(map(len, payloads.values()))
        open_ids, unsent = self.send(payloads, message_type, round_)
        try:
            for client in unsent:
                yield self.failed(client, "unavailable", "the message could not be sent", start)
            while open_ids and self.clock.now() < end:
                replies = self.pull(open_ids)
                for message_id, message in replies:
                    yield self.read(open_ids.pop(message_id), message, start)
                if not replies and open_ids:
                    self.wait(max(0.0, end - self.clock.now()), open_ids)
            for client in open_ids.values():
                yield self.late(client, deadline_s, start)
        finally:
            self.forget(open_ids)

    def send(self, payloads: Mapping[str, bytes], message_type: str, round_: int) -> tuple[dict[str, str], list[str]]:
        """The clients by the ids of their messages, and those whose messages the grid did not take.

        Whoever sends counts the bytes.
        """
        # Equal payloads share one content, so that a grid can serialise a broadcast once.
        contents = {id(data): to_content(data) for data in payloads.values()}
        messages = [
            make_message(contents[id(data)], self._roster.node_id(client), message_type, group_id=str(round_))
            for client, data in payloads.items()
        ]
        # Flower's own grid returns None for a message that it did not take, and no ids where they were too large.
        ids = list(self._grid.push_messages(messages)) or [None] * len(messages)
        sent = {key: client for key, client in zip(ids, payloads, strict=True) if key is not None}
        return sent, [client for key, client in zip(ids, payloads, strict=True) if key is None]

    def pull(self, open_ids: Iterable[str]) -> list[tuple[str, Message]]:
        """Replies to these messages that are here now, by the ids of the messages."""
        found = self._grid.pull_messages(list(open_ids))
        return [(message.metadata.reply_to_message_id, message) for message in found]

    def forget(self, open_ids: Iterable[str]) -> None:
        """Drop messages that nobody waits for any more."""
        if (ids := list(open_ids)) and hasattr(self._grid, "forget"):
            self._grid.forget(ids)

    def wait(self, seconds: float, open_ids: Iterable[str]) -> None:
        """Until a reply is there, where the grid can tell (the link, or a virtual clock); a nap elsewhere."""
        wait = getattr(self._grid, "wait", None)
        if wait is None:
            time.sleep(min(_POLL_S, seconds))
        else:
            wait(seconds if self.clock.virtual is not None else min(_POLL_S, seconds), list(open_ids))

    def read(self, client: str, message: Message, start: float) -> Reply:
        """What a client's message says, which was asked at `start`; its bytes are counted."""
        if message.has_error():
            return self.failed(client, "unavailable", message.error.reason or "the client went away", start)
        try:
            data = from_content(message.content, max_bytes=self._max_bytes)
        except (MalformedMessage, OversizeMessage) as error:
            return self.failed(client, error.reason, str(error), start)
        self.bytes_up += len(data)
        return self._reply(client, data, "", "", start)

    def late(self, client: str, deadline_s: float, start: float) -> Reply:
        """What stands for the reply of a client that did not answer in time."""
        return self.failed(client, "late", f"no reply within {deadline_s:.0f} s", start)

    def failed(self, client: str, failure: str, detail: str, start: float) -> Reply:
        """What stands for a reply that never came."""
        return self._reply(client, b"", failure, detail, start)

    def _reply(self, client: str, data: bytes, failure: str, detail: str, start: float) -> Reply:
        seconds, virtual = self.clock.now() - start, self.clock.virtual is not None
        return Reply(client, data, failure, detail, seconds, virtual)
