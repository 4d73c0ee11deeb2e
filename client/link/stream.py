"""One stream to the coordinator, from Hello to its end."""

import contextlib
import threading
import time
from collections.abc import Callable, Iterator

import grpc

from client.link.refusals import Retry, broken, refused
from fedtune.errors import MalformedMessage, TransportError
from protos.address import Address
from protos.endpoint import Endpoint, Event
from protos.fedtune.v1.link_pb2 import ClientFrame, Goodbye, Heartbeat, Hello, ServerFrame, Welcome
from protos.fedtune.v1.link_pb2_grpc import LinkStub

_FIRST_HEARTBEAT_S = 5.0
_SILENT_HEARTBEATS = 3
_UNTIL_WELCOME_S = 0.05
_FAREWELL_S = 1.0


class Stream:
    """Moves frames between an endpoint and the coordinator until either ends it.

    Three threads meet here under one condition: the caller's, which reads; gRPC's, which asks for frames to send; and
    one that keeps the time.

    Args:
        changed: guards `endpoint`; notified whenever there may be something to send.
        on_welcome: hears the coordinator's terms, with `changed` held.
        on_event: hears of transfers, and of ids that the coordinator withdraws, with `changed` held.
    """

    def __init__(
        self,
        channel: grpc.Channel,
        address: Address,
        endpoint: Endpoint[ClientFrame],
        changed: threading.Condition,
        on_welcome: Callable[[Welcome], None],
        on_event: Callable[[Event | str], None],
    ) -> None:
        self._address = address
        self._endpoint = endpoint
        self._changed = changed
        self._on_welcome = on_welcome
        self._on_event = on_event
        self._stub = LinkStub(channel)  # type: ignore[no-untyped-call]
        self.welcomed = False
        self._over = threading.Event()
        self.last_seen = time.monotonic()
        self._heartbeat_s = _FIRST_HEARTBEAT_S

    def converse(self, hello: Hello, *, encrypted: bool) -> str:
        """Stay connected until the coordinator says goodbye, and return what it says.

        Raises:
            Retry: the stream broke; another one may work.
            TransportError: the coordinator refuses, or cannot be who it should be; no other attempt would help.
        """
        self._call = self._stub.Connect(self._frames(hello))
        clock = threading.Thread(target=self._keep_time, name="fedtune-beat", daemon=True)
        clock.start()
        try:
            for frame in self._call:
                if (farewell := self._take(frame)) is not None:
                    return farewell
        except grpc.RpcError as error:
            raise self._why(error, encrypted) from error
        except KeyboardInterrupt:
            self._part()
            raise
        except MalformedMessage as error:
            raise Retry(f"the coordinator at {self._address} sent what is no part of the protocol: {error}") from error
        finally:
            self._end()
            clock.join()
        raise Retry(f"the coordinator at {self._address} closed the connection without a word")

    def leave(self) -> None:
        """Tell the coordinator that this client goes; it then ends the stream."""
        with self._changed:
            if self.welcomed:
                self._endpoint.say(ClientFrame(goodbye=Goodbye(message="the client was stopped")))
            else:
                self._over.set()
            self._changed.notify_all()

    def cancel(self) -> None:
        """End the stream at once."""
        self._call.cancel()

    def _part(self) -> None:
        """Leave, and give the coordinator a moment to hear it; then it ends the call."""
        self.leave()
        heard = threading.Event()
        if self._call.add_callback(heard.set):  # gRPC allows no second read beside the one that was interrupted
            with contextlib.suppress(KeyboardInterrupt):
                heard.wait(_FAREWELL_S)

    def _why(self, error: grpc.RpcError, encrypted: bool) -> TransportError:
        if self.welcomed:
            return Retry(f"the connection to {self._address} was lost")
        return broken(self._address, error, encrypted=encrypted)

    def _end(self) -> None:
        with self._changed:
            self._over.set()
            self._changed.notify_all()
        self._call.cancel()

    def _frames(self, hello: Hello) -> Iterator[ClientFrame]:
        yield ClientFrame(hello=hello)
        while (frame := self._next_frame()) is not None:
            yield frame

    def _next_frame(self) -> ClientFrame | None:
        """What to send next, None where the stream is over; waits.

        A stream that is over takes nothing from the endpoint: what it took would be missing in the next one.
        """
        with self._changed:
            while not self._over.is_set():
                if self.welcomed and (frame := self._endpoint.next_frame()) is not None:
                    return frame
                self._changed.wait()
        return None

    def _take(self, frame: ServerFrame) -> str | None:
        self.last_seen = time.monotonic()
        match frame.WhichOneof("frame"):
            case "refusal":
                raise refused(self._address, frame.refusal)
            case "goodbye":
                return frame.goodbye.message[:400]
        with self._changed:
            self._take_in_turn(frame)
            self._changed.notify_all()
        return None

    def _take_in_turn(self, frame: ServerFrame) -> None:
        if frame.HasField("welcome"):
            self._heartbeat_s = frame.welcome.heartbeat_s
            self._on_welcome(frame.welcome)
            self.welcomed = True
        elif not self.welcomed:
            raise MalformedMessage("the first frame is no Welcome")
        elif frame.HasField("withdraw"):
            self._on_event(frame.withdraw.transfer)
        elif (event := self._endpoint.receive(frame)) is not None:
            self._on_event(event)

    def _keep_time(self) -> None:
        while not self._over.wait(self._heartbeat_s if self.welcomed else _UNTIL_WELCOME_S):
            if time.monotonic() - self.last_seen > self._heartbeat_s * _SILENT_HEARTBEATS:
                self._call.cancel()
                return
            with self._changed:
                if self.welcomed:
                    self._endpoint.say(ClientFrame(heartbeat=Heartbeat()))
                    self._changed.notify_all()
