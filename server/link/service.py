"""The gRPC service: lets clients in, and serves each stream until it ends."""

import asyncio
import logging
import uuid
from collections.abc import AsyncIterator
from typing import Any

from fedtune import __version__
from protos.fedtune.v1.link_pb2 import ClientFrame, Hello, ServerFrame, Welcome
from protos.fedtune.v1.link_pb2_grpc import LinkServicer
from protos.limits import PROTOCOL
from server.link.connection import Connection, Context, last_words
from server.link.door import Door, Guest, Refused
from server.link.limits import CoordinatorLimits
from server.link.nodes import Nodes

_log = logging.getLogger("fedtune.link")


class LinkService(LinkServicer):
    """One instance a coordinator; its methods run in the link's thread."""

    def __init__(self, door: Door, nodes: Nodes, limits: CoordinatorLimits) -> None:
        self._door = door
        self._nodes = nodes
        self.limits = limits
        self._session = uuid.uuid4().hex
        self._connections: set[Connection] = set()
        self._farewell: str | None = None

    async def Connect(self, request_iterator: AsyncIterator[ClientFrame], context: Context) -> None:  # noqa: N802
        """Serve one client's stream."""
        try:
            guest, hello = await self._receive_hello(context)
        except Refused as refused:
            _log.warning("refused %s: %s", context.peer(), refused)
            await last_words(context, refused.refusal)
            return
        await self._serve(context, guest, hello)

    def say_goodbye(self, message: str) -> None:
        """Send everyone home, and everyone who comes from now on."""
        self._farewell = message
        for connection in self._connections:
            connection.say_goodbye(message)

    async def _receive_hello(self, context: Context) -> tuple[Guest, Hello]:
        try:
            async with asyncio.timeout(self.limits.hello_timeout_s):
                frame = await context.read()
        except TimeoutError:
            raise Refused("malformed", "no Hello came in time") from None
        if not isinstance(frame, ClientFrame) or not frame.HasField("hello"):
            raise Refused("malformed", "the first frame is no Hello")
        guest = self._door.admit(frame.hello, certificate_of(context))
        if self._nodes.named(guest.name).connection is None and len(self._connections) >= self.limits.max_clients:
            raise Refused("full", f"the coordinator has its {self.limits.max_clients} clients", retryable=True)
        return guest, frame.hello

    async def _serve(self, context: Context, guest: Guest, hello: Hello) -> None:
        node = self._nodes.named(guest.name)
        connection = Connection(context, node, guest, self.limits)
        self._connections.add(connection)
        try:
            await context.write(self._welcome(guest, node.node_id))
            node.attach(hello.session, connection)
            if self._farewell is not None:
                connection.say_goodbye(self._farewell)
            _log.info("client %s is here", guest.name)
            await connection.run()
        finally:
            self._connections.discard(connection)
            node.detach(connection)
            _log.info("client %s is gone", guest.name)

    def _welcome(self, guest: Guest, node_id: int) -> ServerFrame:
        limits = self.limits
        welcome = Welcome(
            protocol=PROTOCOL,
            software=__version__,
            session=self._session,
            name=guest.name,
            node_id=node_id,
            heartbeat_s=limits.heartbeat_s,
            max_message_bytes=limits.max_message_bytes,
            chunk_bytes=limits.chunk_bytes,
            window_bytes=limits.window_bytes,
        )
        return ServerFrame(welcome=welcome)


def certificate_of(context: Context) -> bytes | None:
    """The peer's certificate as gRPC verified it, as PEM; None without TLS."""
    auth: Any = context.auth_context()
    certificates = auth.get("x509_pem_cert")
    return certificates[0] if certificates else None
