"""One stream of one client while it lasts: reads, writes, keeps the time."""

import asyncio
import contextlib
import time
from typing import Any

import grpc

from fedtune.errors import MalformedMessage
from protos.fedtune.v1.link_pb2 import ClientFrame, Goodbye, Heartbeat, Refusal, ServerFrame
from server.link.door import Guest, Refused
from server.link.limits import CoordinatorLimits
from server.link.node import Node

Context = grpc.aio.ServicerContext[Any, Any]
_FAREWELL_S = 1.0


class Connection:
    """Moves frames between a node's endpoint and a gRPC stream until either side ends it."""

    def __init__(self, context: Context, node: Node, guest: Guest, limits: CoordinatorLimits) -> None:
        self.last_seen = time.monotonic()
        self._context = context
        self._node = node
        self._guest = guest
        self._limits = limits
        self._wake = asyncio.Event()
        self._closing = False
        self._last_frame: ServerFrame | None = None

    def wake(self) -> None:
        """There is something to send."""
        self._wake.set()

    def replaced(self) -> None:
        """A newer connection with the same key has come; this one ends."""
        text = f"another client has connected with the key of {self._node.name}; run one client a key"
        self.refuse(Refusal(reason="replaced", message=text))

    def refuse(self, refusal: Refusal) -> None:
        """End the connection with a reason."""
        self._close(ServerFrame(refusal=refusal))

    def say_goodbye(self, message: str) -> None:
        """End the connection for good: the client may go home."""
        self._close(ServerFrame(goodbye=Goodbye(message=message)))

    def _close(self, last_frame: ServerFrame | None = None) -> None:
        self._last_frame = self._last_frame or last_frame
        self._closing = True
        self._wake.set()

    async def run(self) -> None:
        """Serve until the stream ends."""
        reader, writer, clock = tasks = [asyncio.create_task(f()) for f in (self._read, self._write, self._tick)]
        try:
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            clock.cancel()
            self._close()
            await asyncio.wait([writer], timeout=_FAREWELL_S)
            if self._last_frame is not None:
                # The client hangs up when it has read it; were we first, gRPC could drop what it has not read yet.
                await asyncio.wait([reader], timeout=_FAREWELL_S)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _write(self) -> None:
        while not self._closing:
            frame = self._node.endpoint.next_frame()
            if frame is None:
                await self._wake.wait()
                self._wake.clear()
            else:
                await self._context.write(frame)
        if self._last_frame is not None:
            await self._context.write(self._last_frame)

    async def _read(self) -> None:
        while isinstance(frame := await self._context.read(), ClientFrame):
            if self._closing:
                continue
            self.last_seen = time.monotonic()
            if frame.HasField("goodbye"):
                self._leave()
                return
            self._take(frame)

    def _leave(self) -> None:
        if self._node.connection is self:
            self._node.fail_all(f"client {self._node.name} has left")

    def _take(self, frame: ClientFrame) -> None:
        # A connection that was replaced must not touch the node: the endpoint speaks with its successor.
        if self._node.connection is not self:
            return
        try:
            event = self._node.endpoint.receive(frame)
        except MalformedMessage as error:
            self.refuse(Refusal(reason="malformed", message=str(error), retryable=True))
            return
        if event is not None:
            self._node.take(event)
        self._wake.set()

    async def _tick(self) -> None:
        while True:
            await asyncio.sleep(self._limits.heartbeat_s)
            if time.monotonic() - self.last_seen > self._limits.silence_s:
                return
            try:
                self._guest.check()
                if self._node.connection is self:
                    self._node.endpoint.say(ServerFrame(heartbeat=Heartbeat()))
            except Refused as refused:
                self.refuse(refused.refusal)
            except MalformedMessage:
                return
            self._wake.set()


async def last_words(context: Context, refusal: Refusal) -> None:
    """Tell a client that was not let in why, and let it hang up; it may be gone already."""
    with contextlib.suppress(grpc.aio.BaseError, TimeoutError):
        async with asyncio.timeout(_FAREWELL_S):
            await context.write(ServerFrame(refusal=refusal))
            while isinstance(await context.read(), ClientFrame):
                pass
