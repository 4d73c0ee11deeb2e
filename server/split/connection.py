"""One stream of a client's share while it lasts: frames in and out, and the time kept."""

import asyncio
import contextlib
import time
from collections.abc import Callable
from typing import Any

import grpc

from fedtune.errors import FedtuneError, MalformedMessage, OversizeMessage
from fedtune.split.asks import Ask, Way
from fedtune.split.serve import BodyServer
from fedtune.split.session import Session
from protos.fedtune.v1.link_pb2 import Heartbeat, Refusal
from protos.fedtune.v1.split_pb2 import SplitClientFrame, SplitServerFrame
from protos.split import Gathering, frames_of_answer, take_ask
from protos.transfer import DamagedTransfer
from server.link.door import Refused
from server.link.limits import CoordinatorLimits

Context = grpc.aio.ServicerContext[Any, Any]
_FAREWELL_S = 1.0


class SplitConnection:
    """Moves frames between a session and a gRPC stream until either side ends it; lives in the link's thread.

    Args:
        check: raises `Refused` when the client may not stay: revoked, or the round is over.
    """

    session: Session

    def __init__(
        self, context: Context, server: BodyServer, check: Callable[[], None], limits: CoordinatorLimits
    ) -> None:
        self._context = context
        self._server = server
        self._check = check
        self._limits = limits
        self._gathering: Gathering[Ask] = Gathering(server.coding, lambda ask: server.check(self.session, ask))
        self._loop = asyncio.get_running_loop()
        self._wake = asyncio.Event()
        self._closing = False
        self._beat = False
        self._refusal: Refusal | None = None
        self._last_seen = time.monotonic()

    def wake(self) -> None:
        """There is an answer, or the session has ended; may be called from any thread."""
        with contextlib.suppress(RuntimeError):  # the loop is closed: nobody is there to be told
            self._loop.call_soon_threadsafe(self._wake.set)

    def replaced(self) -> None:
        """A newer connection of the same client has come; this one ends."""
        text = "another stream has been opened with this client's key; run one client a key"
        self._refuse(Refusal(reason="replaced", message=text))

    def end(self) -> None:
        """The stream is over: graphs are freed, and what may still be fetched waits for the next stream."""
        self._server.detach(self.session, self.wake)

    async def run(self) -> None:
        """Serve until the stream ends."""
        reader, writer, clock = tasks = [asyncio.create_task(f()) for f in (self._read, self._write, self._tick)]
        try:
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            clock.cancel()
            self._closing = True
            self._wake.set()
            await asyncio.wait([writer], timeout=_FAREWELL_S)
            if self._refusal is not None:
                # The client hangs up when it has read it; were we first, gRPC could drop what it has not read yet.
                await asyncio.wait([reader], timeout=_FAREWELL_S)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    def _refuse(self, refusal: Refusal, *, forget: bool = False) -> None:
        """End the stream with a reason; with `forget` the session ends too."""
        self._refusal = self._refusal or refusal
        self._closing = True
        if forget:
            self._server.close(self.session)
        self._wake.set()

    async def _write(self) -> None:
        while not self._closing:
            self._wake.clear()
            if self._beat:
                self._beat = False
                await self._context.write(SplitServerFrame(heartbeat=Heartbeat()))
            elif not await self._write_answer():
                await self._wake.wait()
        if self._refusal is not None:
            await self._context.write(SplitServerFrame(refusal=self._refusal))

    async def _write_answer(self) -> bool:
        """Send the next answer; False where there is none."""
        try:
            answer = self._server.next_answer(self.session)
        except FedtuneError as error:
            self._refuse(Refusal(reason="failed", message=str(error)), forget=True)
            return True
        if answer is None:
            return False
        for frame in frames_of_answer(answer, self._limits.chunk_bytes):
            await self._context.write(frame)
        return True

    async def _read(self) -> None:
        while isinstance(frame := await self._context.read(), SplitClientFrame):
            if self._closing:
                continue
            self._last_seen = time.monotonic()
            if frame.HasField("close"):
                self._server.close(self.session)
                return
            self._take(frame)

    def _take(self, frame: SplitClientFrame) -> None:
        try:
            match frame.WhichOneof("frame"):
                case "heartbeat":
                    return
                case "taken":
                    way: Way = "backward" if frame.taken.backward else "forward"
                    self._server.acknowledge(self.session, frame.taken.number, way)
                case _:
                    if (ask := take_ask(self._gathering, frame)) is not None:
                        self._server.ask(self.session, ask)
        except DamagedTransfer as error:
            self._refuse(Refusal(reason="damaged", message=str(error), retryable=True))
        except OversizeMessage as error:
            self._refuse(Refusal(reason="oversize", message=str(error)), forget=True)
        except MalformedMessage as error:
            self._refuse(Refusal(reason="malformed", message=str(error)), forget=True)

    async def _tick(self) -> None:
        while True:
            await asyncio.sleep(self._limits.heartbeat_s)
            if time.monotonic() - self._last_seen > self._limits.silence_s:
                return
            try:
                self._check()
            except Refused as refused:
                self._refuse(refused.refusal, forget=True)
            self._beat = True
            self._wake.set()


async def last_words(context: Context, refusal: Refusal) -> None:
    """Tell a client that was not let in why, and let it hang up; it may be gone already."""
    with contextlib.suppress(grpc.aio.BaseError, TimeoutError):
        async with asyncio.timeout(_FAREWELL_S):
            await context.write(SplitServerFrame(refusal=refusal))
            while isinstance(await context.read(), SplitClientFrame):
                pass
