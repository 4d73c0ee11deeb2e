"""The gRPC service of the body: lets clients in through the link's door, and serves each stream until it ends."""

import asyncio
import logging
from collections.abc import AsyncIterator, Callable

import grpc

from fedtune.errors import TransportError
from fedtune.split.serve import BodyServer
from fedtune.split.session import Session
from protos.fedtune.v1.split_pb2 import Open, Opened, SplitClientFrame, SplitServerFrame
from protos.fedtune.v1.split_pb2_grpc import SplitServicer, add_SplitServicer_to_server
from server.link.beside import Desk
from server.link.door import Door, Guest, Refused
from server.link.limits import CoordinatorLimits
from server.link.service import certificate_of
from server.split.connection import Context, SplitConnection, last_words

_log = logging.getLogger("fedtune.split")


class SplitService(SplitServicer):
    """One instance a coordinator; its methods run in the link's thread, torch in a thread of the body server.

    Who comes in is the link's door's to say: the name is the verified certificate's, and a client that is revoked loses
    the stream. A share is served only while the link has a message of that round which this client was sent and has not
    answered: who was not asked, or whose time is over, is refused, and what was kept for it is freed.

    Args:
        server: the body; started and stopped with the grid.
        fingerprint: the body's, told to clients.
        run: the id of the run that is open; "" where any is.
    """

    def __init__(self, server: BodyServer, fingerprint: str = "", *, run: Callable[[], str] = lambda: "") -> None:
        self.server = server
        self._fingerprint = fingerprint
        self._run = run
        self._connections: dict[str, SplitConnection] = {}

    def attach(self, server: grpc.aio.Server, desk: Desk) -> None:
        """Serve beside the link on its gRPC server; called once, in the link's thread."""
        self._door: Door = desk.door
        self._limits: CoordinatorLimits = desk.limits
        self._asked = desk.asked
        add_SplitServicer_to_server(self, server)  # type: ignore[no-untyped-call]
        self.server.start()
        self._sweeper = asyncio.create_task(self._sweep())

    def detach(self) -> None:
        """Serve no longer; frees everything. Called in the link's thread."""
        self._sweeper.cancel()
        self.server.stop()

    async def Work(  # noqa: N802
        self, request_iterator: AsyncIterator[SplitClientFrame], context: Context
    ) -> None:
        """Serve one stream of one client's share."""
        try:
            guest, opening = await self._receive_open(context)
            session, resumed, connection = self._open(context, guest, opening)
        except Refused as refused:
            _log.warning("refused the body to %s: %s", context.peer(), refused)
            await last_words(context, refused.refusal)
            return
        try:
            await context.write(SplitServerFrame(opened=self._opened(session, opening, resumed=resumed)))
            await connection.run()
        finally:
            if self._connections.get(guest.name) is connection:
                del self._connections[guest.name]
            connection.end()

    async def _receive_open(self, context: Context) -> tuple[Guest, Open]:
        try:
            async with asyncio.timeout(self._limits.hello_timeout_s):
                frame = await context.read()
        except TimeoutError:
            raise Refused("malformed", "no Open came in time") from None
        if not isinstance(frame, SplitClientFrame) or not frame.HasField("open"):
            raise Refused("malformed", "the first frame is no Open")
        guest = self._door.admit(frame.open.hello, certificate_of(context))
        if frame.open.body not in {"", self._fingerprint}:
            raise Refused("malformed", "the coordinator's body is another one than the share began with")
        return guest, frame.open

    def _open(self, context: Context, guest: Guest, opening: Open) -> tuple[Session, bool, SplitConnection]:
        def check() -> None:
            guest.check()
            self._check_asked(guest.name, opening.run, opening.round)

        check()
        connection = SplitConnection(context, self.server, check, self._limits)
        if (former := self._connections.get(guest.name)) is not None:
            former.replaced()
        try:
            session, resumed = self.server.open(
                guest.name, opening.hello.session, connection.wake, run=opening.run, round_=opening.round
            )
        except TransportError as error:
            raise Refused("full", str(error), retryable=True) from error
        connection.session = session
        self._connections[guest.name] = connection
        return session, resumed, connection

    def _check_asked(self, name: str, run: str, round_: int) -> None:
        open_run = self._run()
        if (open_run and run != open_run) or not self._asked(name, round_):
            raise Refused("closed", f"{name} has no share of round {round_} of this run; it may be over")

    def _opened(self, session: Session, opening: Open, *, resumed: bool) -> Opened:
        limits, coding = self.server.limits, self.server.coding
        held, held_back = self.server.held(session)
        return Opened(
            window=max(1, min(opening.window, limits.in_flight)),
            max_tensor_bytes=limits.max_tensor_bytes,
            chunk_bytes=self._limits.chunk_bytes,
            heartbeat_s=self._limits.heartbeat_s,
            codec=coding.kind,
            topk=coding.topk,
            width=self.server.width,
            body=self._fingerprint,
            resumed=resumed,
            held=held,
            held_back=held_back,
            trains=session.trains,
        )

    async def _sweep(self) -> None:
        while True:
            await asyncio.sleep(max(0.01, min(1.0, self.server.limits.away_s / 4)))
            self.server.sweep()
