"""The thread that works on messages, one after another, while the link goes on beating."""

import logging
import threading
from collections.abc import Callable

from flwr.app import Message

from fedtune.errors import FedtuneError
from protos.flower import (
    CLIENT_APP_CRASHED,
    CLIENT_APP_RAISED_EXCEPTION,
    make_error_reply,
    message_from_bytes,
    message_to_bytes,
)

_log = logging.getLogger("fedtune.link")
Handler = Callable[[Message], Message]


class Worker:
    """Calls `handle` for each message and `reply` with the bytes of what it returns.

    Guarantees: every message leads to one reply, unless it is withdrawn before: what `handle` raises becomes an error
    reply, which holds the sentence of a `FedtuneError` and of others only the type, since their text may hold data.
    """

    def __init__(self, handle: Handler, reply: Callable[[str, bytes], None]) -> None:
        self._handle = handle
        self._reply = reply
        self._changed = threading.Condition()
        self._waiting: dict[str, bytes | bytearray] = {}
        self._current: str | None = None
        self._stopped = False
        self._thread = threading.Thread(target=self._run, name="fedtune-work", daemon=True)

    def start(self) -> None:
        """Begin to work."""
        self._thread.start()

    def submit(self, message_id: str, raw: bytes | bytearray) -> None:
        """One more message to work on."""
        with self._changed:
            self._waiting[message_id] = raw
            self._changed.notify()

    def withdraw(self, message_id: str) -> None:
        """Do not begin with this message, or drop the reply where the work on it has begun."""
        with self._changed:
            self._waiting.pop(message_id, None)
            if self._current == message_id:
                self._current = None

    def withdraw_all(self) -> None:
        """Withdraw every message."""
        with self._changed:
            self._waiting.clear()
            self._current = None

    def stop(self) -> None:
        """Begin with nothing more; what is being worked on runs on, its reply is dropped."""
        with self._changed:
            self._stopped = True
            self._current = None
            self._changed.notify()

    def _run(self) -> None:
        while (job := self._next()) is not None:
            message_id, raw = job
            answer = self._answer(raw)
            with self._changed:
                wanted = self._current == message_id
                self._current = None
            if wanted and answer is not None:
                self._reply(message_id, answer)

    def _next(self) -> tuple[str, bytes | bytearray] | None:
        with self._changed:
            self._changed.wait_for(lambda: self._waiting or self._stopped)
            if self._stopped:
                return None
            self._current = next(iter(self._waiting))
            return self._current, self._waiting.pop(self._current)

    def _answer(self, raw: bytes | bytearray) -> bytes | None:
        try:
            message = message_from_bytes(raw)
        except FedtuneError:
            _log.exception("the coordinator sent a message that cannot be read")
            return None
        return message_to_bytes(self._work(message))

    def _work(self, message: Message) -> Message:
        try:
            return self._handle(message)
        except FedtuneError as error:
            _log.error("%s", error)
            return make_error_reply(CLIENT_APP_RAISED_EXCEPTION, f"{error.reason}: {error}", to=message)
        except Exception as error:
            _log.exception("the work on a message failed")
            return make_error_reply(CLIENT_APP_RAISED_EXCEPTION, type(error).__name__, to=message)
        except BaseException as error:
            _log.exception("the work on a message was broken off")
            return make_error_reply(CLIENT_APP_CRASHED, type(error).__name__, to=message)
