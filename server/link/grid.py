"""A Flower `Grid` whose messages travel over the link: any ServerApp or strategy runs on it unchanged."""

import logging
import time
from collections.abc import Iterable, Sequence
from types import TracebackType

from flwr.app import Message

from fedtune.errors import TransportError
from protos.address import Address, parse_address
from protos.flower import OwnGrid, body_to_bytes, fresh_message_id, head_of, message_to_bytes, stamp
from protos.transfer import Body
from server.keys.credentials import ServerKeys
from server.link.beside import Beside, Desk
from server.link.door import Door
from server.link.host import Host
from server.link.limits import CoordinatorLimits
from server.link.node import NodeStatus, Traffic
from server.link.nodes import Nodes, Parcel
from server.link.replies import ReplyBox
from server.link.service import LinkService

_log = logging.getLogger("fedtune.link")


class LinkGrid(OwnGrid):
    """Listens, and carries messages to clients and their replies back; all methods may be called from any thread.

    Guarantees: a message reaches a client process whole and at most once, and gets at most one reply, which is handed
    out once. A message to a client that is away is kept; after `away_s`, or when the client leaves, its reply is an
    error (`NODE_UNAVAILABLE`), so nobody waits for ever. Who sent a reply is told by the certificate.

    Args:
        address: `host:port`; port 0 takes a free one, which `address` then names.
        keys: certificates; None for an unencrypted link, on loopback only.
        run_id: the Flower run that messages belong to.
        limits: sizes and times.
        beside: other services on the same port, for the same clients.

    Raises:
        TransportError: where the address cannot be listened on, or is not loopback and there are no keys.
    """

    def __init__(
        self,
        address: str,
        keys: ServerKeys | None,
        *,
        run_id: int = 1,
        limits: CoordinatorLimits | None = None,
        beside: Sequence[Beside] = (),
    ) -> None:
        super().__init__(run_id)
        self.limits = limits or CoordinatorLimits()
        where = parse_address(address)
        if keys is None:
            _check_unencrypted(where)
        self._box = ReplyBox()
        self._nodes = Nodes(self.limits, self._box)
        door = Door(keys.enrolment if keys else None)
        service = LinkService(door, self._nodes, self.limits)
        desk = Desk(door, self.limits, self._nodes.asked)
        self._host = Host(where, keys, service, self._nodes, desk, beside)

    @property
    def address(self) -> Address:
        """Where clients connect to."""
        return self._host.address

    def get_node_ids(self) -> list[int]:
        """The clients that are connected and were heard of lately."""
        return self._host.call(self._nodes.connected)

    def name_of(self, node_id: int) -> str:
        """The name of a client; `node-ID` where it never connected."""
        return self._host.call(self._nodes.name_of, node_id)

    def push_messages(self, messages: Iterable[Message]) -> list[str]:
        """Send messages; those of one call that share a `RecordDict` share its bytes.

        Raises:
            TransportError: where one is larger than `max_message_bytes`; then none is sent.
        """
        parcels = self._pack(messages)
        ids = [message_id for message_id, _, _ in parcels]
        self._box.expect(ids)
        self._host.call(self._nodes.push, parcels)
        return ids

    def pull_messages(self, message_ids: Iterable[str]) -> list[Message]:
        """The replies to these messages that are here, errors included; does not wait."""
        return [reply.read() for reply in self._box.take(message_ids)]

    def wait(self, timeout_s: float | None = None, message_ids: Iterable[str] | None = None) -> bool:
        """Wait until a reply (to one of these messages) can be pulled; False after `timeout_s`."""
        return self._box.wait(timeout_s, message_ids)

    def forget(self, message_ids: Iterable[str]) -> None:
        """Withdraw messages: late replies are dropped, and clients that have not begun to work do not."""
        ids = list(message_ids)
        self._box.forget(ids)
        self._host.call(self._nodes.forget, ids)

    def send_and_receive(self, messages: Iterable[Message], *, timeout: float | None = None) -> list[Message]:
        """Send messages and wait for the replies; after `timeout` seconds, those here; the rest is withdrawn."""
        end = time.monotonic() + timeout if timeout is not None else None
        open_ids = dict.fromkeys(self.push_messages(messages))
        replies: list[Message] = []
        while open_ids and (end is None or time.monotonic() < end):
            for reply in self.pull_messages(open_ids):
                del open_ids[reply.metadata.reply_to_message_id]
                replies.append(reply)
            if open_ids:
                self.wait(None if end is None else max(0.0, end - time.monotonic()), open_ids)
        self.forget(open_ids)
        return replies

    def traffic(self, node_id: int) -> Traffic:
        """Bytes and messages to and from one client."""
        return self._host.call(self._nodes.status, node_id).traffic

    def statuses(self) -> list[NodeStatus]:
        """Every client that ever came or was asked, by name."""
        return self._host.call(self._nodes.statuses)

    def close(self, message: str | None = "the coordinator has finished") -> None:
        """Say goodbye to all clients and stop listening; may be called again.

        With `message=None` nothing is said: clients try to reconnect, as after a crash.
        """
        self._host.close(message)

    def __enter__(self) -> "LinkGrid":
        """The grid itself."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Close; after an error without a goodbye, so that clients wait for the coordinator to be started again."""
        if error is None:
            self.close()
        else:
            self.close(None)

    def _pack(self, messages: Iterable[Message]) -> list[Parcel]:
        bodies: dict[int, Body] = {}
        parcels = []
        for message in messages:
            head = stamp(head_of(message), message_id=fresh_message_id())
            key = id(message.content)
            if key not in bodies:
                bodies[key] = Body(body_to_bytes(message.content))
            payload = bodies[key].followed_by(message_to_bytes(head))
            if payload.total_bytes > self.limits.max_message_bytes:
                raise TransportError(
                    f"a message of {payload.total_bytes} bytes is larger than the link's limit of "
                    f"{self.limits.max_message_bytes}; raise max_message_bytes or train a smaller adapter"
                )
            parcels.append((head.metadata.message_id, head, payload))
        return parcels


def _check_unencrypted(address: Address) -> None:
    if not address.is_loopback:
        raise TransportError(
            f"{address} is open to other machines: give keys (`fedtune keys init`), or listen on 127.0.0.1"
        )
    _log.warning("NO ENCRYPTION: %s takes anyone on this machine under any name; use this for trials only", address)
