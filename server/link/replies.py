"""Replies on their way from the link's thread to whoever waits for them: each is handed out once."""

import threading
from collections.abc import Iterable
from dataclasses import dataclass

from fedtune.errors import MalformedMessage
from protos.flower import (
    UNKNOWN_ERROR,
    Message,
    fresh_message_id,
    make_error_reply,
    message_from_bytes,
    stamp,
)


@dataclass(frozen=True, slots=True)
class Reply:
    """What a client answered, still as bytes, or why there is no answer."""

    head: Message
    """The message that it answers, without its content."""
    raw: bytes | bytearray = b""
    code: int = UNKNOWN_ERROR
    failure: str = ""

    def read(self) -> Message:
        """The Flower message; who sent it and what it answers is the link's knowledge, not the client's word."""
        if self.failure:
            return make_error_reply(self.code, self.failure, to=self.head)
        try:
            message = message_from_bytes(self.raw)
        except MalformedMessage as error:
            return make_error_reply(UNKNOWN_ERROR, f"{error.reason}: {error}", to=self.head)
        asked = self.head.metadata
        return stamp(
            message,
            run_id=asked.run_id,
            message_id=fresh_message_id(),
            src_node_id=asked.dst_node_id,
            dst_node_id=asked.src_node_id,
            reply_to_message_id=asked.message_id,
            group_id=asked.group_id,
            message_type=asked.message_type,
        )


class ReplyBox:
    """Thread-safe; a reply that nobody expects (any more) is dropped."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._expected: set[str] = set()
        self._ready: dict[str, Reply] = {}

    def expect(self, ids: Iterable[str]) -> None:
        """Take one reply to each of these messages."""
        with self._changed:
            self._expected.update(ids)

    def put(self, message_id: str, reply: Reply) -> None:
        """A reply has come; the first one counts."""
        with self._changed:
            if message_id in self._expected:
                self._expected.discard(message_id)
                self._ready[message_id] = reply
                self._changed.notify_all()

    def take(self, ids: Iterable[str]) -> list[Reply]:
        """The replies to these messages that are here; they are gone from the box."""
        with self._changed:
            return [self._ready.pop(message_id) for message_id in ids if message_id in self._ready]

    def forget(self, ids: Iterable[str]) -> None:
        """Replies to these messages are not wanted any more."""
        with self._changed:
            for message_id in ids:
                self._expected.discard(message_id)
                self._ready.pop(message_id, None)

    def wait(self, timeout_s: float | None, ids: Iterable[str] | None = None) -> bool:
        """Wait until a reply (to one of these messages) is here that was not taken; False after `timeout_s`."""
        wanted = None if ids is None else set(ids)
        with self._changed:
            return self._changed.wait_for(lambda: self._has(wanted), timeout_s)

    def _has(self, wanted: set[str] | None) -> bool:
        return bool(self._ready) if wanted is None else not wanted.isdisjoint(self._ready)
