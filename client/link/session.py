"""A client's whole stay: connects, works, reconnects, until the coordinator has finished."""

import logging
import threading
import time
import uuid
from collections import OrderedDict
from collections.abc import Callable

from client.link.backoff import Backoff
from client.link.channel import check_unencrypted, open_channel
from client.link.credentials import ClientKeys
from client.link.refusals import Retry
from client.link.stream import Stream
from client.link.worker import Handler, Worker
from fedtune import __version__
from fedtune.errors import TransportError
from protos.address import parse_address
from protos.endpoint import Arrived, Endpoint, Event, Rejected
from protos.fedtune.v1.link_pb2 import ClientFrame, Hello, Welcome
from protos.limits import MAX_MESSAGE_BYTES, PROTOCOL, LinkLimits
from protos.names import check_name
from protos.transfer import Body

_log = logging.getLogger("fedtune.link")
_REMEMBERED = 4096
"""So many ids of messages that have arrived are kept, to know those that come again."""


class LinkClient:
    """Takes part until the coordinator says goodbye.

    Guarantees: `handle` is called once for each message that arrives, in a thread of its own and in the order of
    arrival; its reply is kept until the coordinator has it, over any number of broken connections.

    Args:
        address: the coordinator's `host:port`.
        keys: the bundle; None for an unencrypted link, to loopback only.
        handle: does the work: a message in, its reply out.
        name: who this is on an unencrypted link; with keys the certificate says it.
        retry_for_s: so long the coordinator may be out of reach, at the start and later.
        max_message_bytes: larger messages are refused.
        told: hears one sentence whenever the connection comes, goes or fails.

    Raises:
        TransportError: where the address or name is not one, or is not loopback and there are no keys.
    """

    def __init__(
        self,
        address: str,
        keys: ClientKeys | None,
        handle: Handler,
        *,
        name: str = "",
        retry_for_s: float = 300.0,
        max_message_bytes: int = MAX_MESSAGE_BYTES,
        backoff: Backoff | None = None,
        told: Callable[[str], None] | None = None,
    ) -> None:
        self.address = parse_address(address)
        if keys is None:
            check_unencrypted(self.address)
            _log.warning("NO ENCRYPTION: the link to %s is readable here; use this for trials only", self.address)
        self.name = keys.name if keys else check_name(name)
        self._keys = keys
        self._retry_for_s = retry_for_s
        self._backoff = backoff or Backoff()
        self._told = told or (lambda sentence: _log.info("%s", sentence))
        self._changed = threading.Condition()
        self._seen: OrderedDict[str, None] = OrderedDict()
        self._limits = LinkLimits(max_message_bytes=max_message_bytes)
        self._endpoint = Endpoint(ClientFrame, self._limits, wanted=lambda transfer: transfer not in self._seen)
        self._worker = Worker(handle, self._reply)
        self._session = uuid.uuid4().hex
        self._coordinator = ""
        self._stopping = threading.Event()
        self._stream: Stream | None = None
        self._last_contact = time.monotonic()

    def run(self) -> str:
        """Stay until the coordinator says goodbye, and return what it says; "stopped" after `stop`.

        Raises:
            EnrolmentError: a certificate is not accepted, by either side.
            TransportError: the coordinator refuses, or was out of reach for `retry_for_s`.
        """
        self._worker.start()
        self._last_contact = time.monotonic()
        try:
            while not self._stopping.is_set():
                try:
                    return self._connect_once()
                except Retry as retry:
                    self._wait_before_next(retry)
            return "stopped"
        finally:
            self._worker.stop()

    def stop(self) -> None:
        """Leave: tell the coordinator, and let `run` return; may be called from any thread."""
        self._stopping.set()
        stream = self._stream
        if stream is not None:
            stream.leave()
            timer = threading.Timer(2.0, stream.cancel)
            timer.daemon = True
            timer.start()

    def _connect_once(self) -> str:
        with open_channel(self.address, self._keys) as channel:
            stream = Stream(channel, self.address, self._endpoint, self._changed, self._on_welcome, self._on_event)
            self._stream = stream
            try:
                return stream.converse(self._hello(), encrypted=self._keys is not None)
            finally:
                self._stream = None
                if stream.welcomed:
                    self._last_contact = stream.last_seen
                with self._changed:
                    self._endpoint.lost()

    def _hello(self) -> Hello:
        return Hello(
            protocol=PROTOCOL,
            software=__version__,
            session=self._session,
            name=self.name,
            max_message_bytes=self._limits.max_message_bytes,
        )

    def _wait_before_next(self, retry: Retry) -> None:
        out_of_reach_s = time.monotonic() - self._last_contact
        if out_of_reach_s > self._retry_for_s:
            raise TransportError(f"{retry} (tried for {out_of_reach_s:.0f} s)") from retry
        delay_s = self._backoff.next_s()
        if not self._stopping.is_set():
            self._told(f"{retry}; next attempt in {delay_s:.1f} s")
        self._stopping.wait(delay_s)

    # -- called by the stream, with `_changed` held

    def _on_welcome(self, welcome: Welcome) -> None:
        self._endpoint.limits = LinkLimits(
            heartbeat_s=welcome.heartbeat_s,
            max_message_bytes=min(self._limits.max_message_bytes, welcome.max_message_bytes),
            chunk_bytes=welcome.chunk_bytes,
            window_bytes=welcome.window_bytes,
        )
        if self._coordinator not in {"", welcome.session}:
            # A coordinator that was started again asks anew: what the former one asked is void.
            self._endpoint.peer_restarted()
            self._worker.withdraw_all()
        self._coordinator = welcome.session
        self._backoff.reset()
        self._told(f"connected to {self.address} as {welcome.name}")

    def _on_event(self, event: Event | str) -> None:
        match event:
            case str(withdrawn):
                self._remember(withdrawn)
                self._endpoint.forget(withdrawn)
                self._worker.withdraw(withdrawn)
            case Arrived(transfer, raw):
                self._remember(transfer)
                self._worker.submit(transfer, raw)
            case Rejected(transfer, reason, message, ours):
                if ours:
                    self._remember(transfer)
                _log.warning("%s message was not taken: %s (%s)", "a" if ours else "this client's", message, reason)

    def _reply(self, transfer: str, raw: bytes) -> None:
        with self._changed:
            self._endpoint.send(transfer, Body(raw).followed_by(b""))
            self._changed.notify_all()

    def _remember(self, transfer: str) -> None:
        self._seen[transfer] = None
        if len(self._seen) > _REMEMBERED:
            self._seen.popitem(last=False)
