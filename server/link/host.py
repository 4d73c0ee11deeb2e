"""Runs the gRPC server in a thread of its own, behind calls that any thread may make."""

import asyncio
import errno
import logging
import socket
import threading
from collections.abc import Callable, Coroutine, Sequence
from typing import Any, ParamSpec, TypeVar

import grpc

from fedtune.errors import TransportError
from protos.address import Address
from protos.allocator import keep_freed_memory
from protos.fedtune.v1.link_pb2_grpc import add_LinkServicer_to_server
from protos.limits import FRAME_ROOM_BYTES, MIB
from server.keys.credentials import ServerKeys
from server.link.beside import Beside, Desk
from server.link.limits import CoordinatorLimits
from server.link.nodes import Nodes
from server.link.service import LinkService

_log = logging.getLogger("fedtune.link")
_P = ParamSpec("_P")
_R = TypeVar("_R")
_FAREWELL_S = 3.0
_WHY = {
    errno.EADDRINUSE: "is in use; stop the program that holds it or choose another port",
    errno.EACCES: "may not be opened by this user; choose a port above 1023",
    errno.EADDRNOTAVAIL: "is no address of this machine; listen on 0.0.0.0 or on one that it has",
}


class Host:
    """The server, its thread and its event loop.

    Raises:
        TransportError: where the address cannot be listened on, or is open to others while there are no keys.
    """

    def __init__(
        self,
        address: Address,
        keys: ServerKeys | None,
        service: LinkService,
        nodes: Nodes,
        desk: Desk,
        beside: Sequence[Beside] = (),
    ) -> None:
        self._service = service
        self._nodes = nodes
        self._desk = desk
        self._beside = beside
        _check_free(address)
        keep_freed_memory()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="fedtune-link", daemon=True)
        self._thread.start()
        self._server: grpc.aio.Server | None = None
        try:
            self.address = Address(address.host, self._await(self._start(address, keys)))
        except BaseException:
            self._end_thread()
            raise

    def call(self, function: Callable[_P, _R], *args: _P.args, **kwargs: _P.kwargs) -> _R:
        """The result of a function run in the link's thread, the only one that may touch the nodes."""

        if self._loop.is_closed():
            raise TransportError("the link is closed; start a new coordinator")

        async def run() -> _R:
            return function(*args, **kwargs)

        return self._await(run())

    def close(self, message: str | None) -> None:
        """Stop, after a goodbye to all clients where there is a message."""
        if self._thread.is_alive():
            self._await(self._stop(message))
            self._end_thread()

    def _await(self, coroutine: Coroutine[Any, Any, _R]) -> _R:
        return asyncio.run_coroutine_threadsafe(coroutine, self._loop).result()

    async def _start(self, address: Address, keys: ServerKeys | None) -> int:
        self._server = grpc.aio.server(options=_options(self._service.limits))
        add_LinkServicer_to_server(self._service, self._server)  # type: ignore[no-untyped-call]
        try:
            if keys is None:
                port = self._server.add_insecure_port(str(address))
            else:
                port = self._server.add_secure_port(str(address), keys.grpc())
        except RuntimeError as error:
            raise TransportError(f"cannot listen on {address}; is the port in use?") from error
        for other in self._beside:
            other.attach(self._server, self._desk)
        await self._server.start()
        self._sweeper = asyncio.create_task(self._sweep())
        return port

    async def _stop(self, message: str | None) -> None:
        self._sweeper.cancel()
        if message is not None:
            self._service.say_goodbye(message)
        if self._server is not None:
            await self._server.stop(None if message is None else _FAREWELL_S)
        # gRPC returns when the streams are closed, which is before those who served them have tidied up.
        tasks = asyncio.all_tasks() - {asyncio.current_task()}
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks, timeout=1)
        for other in self._beside:
            other.detach()

    async def _sweep(self) -> None:
        while True:
            await asyncio.sleep(min(1.0, self._service.limits.away_s / 4))
            self._nodes.sweep()

    def _end_thread(self) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()


def _check_free(address: Address) -> None:
    """Fail in words: gRPC does not say why it cannot bind."""
    family = socket.AF_INET6 if ":" in address.host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((address.host, address.port))
        except OSError as error:
            why = _WHY.get(error.errno or 0, f"cannot be listened on: {error.strerror or error}")
            raise TransportError(f"{address} {why}") from error


def _options(limits: CoordinatorLimits) -> list[tuple[str, int]]:
    return [
        # Without this a second coordinator on the same port starts, and clients reach either.
        ("grpc.so_reuseport", 0),
        ("grpc.max_receive_message_length", limits.chunk_bytes + FRAME_ROOM_BYTES),
        ("grpc.max_send_message_length", limits.chunk_bytes + FRAME_ROOM_BYTES),
        ("grpc.max_concurrent_streams", 2),
        ("grpc.server_handshake_timeout_ms", int(limits.hello_timeout_s * 1000)),
        ("grpc.max_connection_idle_ms", int(limits.hello_timeout_s * 1000)),
        ("grpc.http2.lookahead_bytes", MIB),
    ]
