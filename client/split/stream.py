"""One stream to the coordinator's body, from Open to its end."""

import threading
import time
from collections.abc import Callable, Iterator

import grpc

from client.link.refusals import Retry, broken, refused
from client.split.numbers import Numbers
from fedtune.errors import MalformedMessage, TransportError
from fedtune.split.asks import Answer
from protos.address import Address
from protos.fedtune.v1.link_pb2 import Heartbeat
from protos.fedtune.v1.split_pb2 import Close, Open, Opened, SplitClientFrame, SplitServerFrame, Taken
from protos.fedtune.v1.split_pb2_grpc import SplitStub
from protos.split import Gathering, coding_of, frames_of_ask, take_answer

_FIRST_HEARTBEAT_S = 5.0
_SILENT_HEARTBEATS = 3
_UNTIL_OPENED_S = 0.05


class SplitStream:
    """Moves asks and answers until either side ends it.

    Three threads meet under one condition: the caller's, which reads; gRPC's, which asks for frames to send; and one
    that keeps the time.

    Args:
        changed: guards `numbers`; notified whenever there may be something to send.
        on_opened: hears the coordinator's terms, with `changed` held, before anything is sent.
    """

    def __init__(
        self,
        channel: grpc.Channel,
        address: Address,
        numbers: Numbers,
        changed: threading.Condition,
        on_opened: Callable[[Opened], None],
    ) -> None:
        self._stub = SplitStub(channel)  # type: ignore[no-untyped-call]
        self._address = address
        self._numbers = numbers
        self._changed = changed
        self._on_opened = on_opened
        self._gathering: Gathering[Answer] | None = None
        self._terms = Opened()
        self._over = threading.Event()
        self._closing = False
        self._beat = False
        self.last_seen = time.monotonic()
        self.answers = 0
        """Answers that came over this stream."""

    @property
    def opened(self) -> bool:
        """Did the coordinator say its terms?"""
        return self._gathering is not None

    def converse(self, opening: Open, *, encrypted: bool) -> None:
        """Stay until `close` was called and the coordinator has heard it.

        Raises:
            Retry: the stream broke; another one may work.
            TransportError: the coordinator refuses, or cannot be who it should be; no other attempt would help.
        """
        self._call = self._stub.Work(self._frames(opening))
        clock = threading.Thread(target=self._keep_time, name="fedtune-split-beat", daemon=True)
        clock.start()
        try:
            for frame in self._call:
                self._take(frame)
        except grpc.RpcError as error:
            if self._closing:
                return
            if self.opened:
                raise Retry(f"the connection to the body at {self._address} was lost") from error
            raise broken(self._address, error, encrypted=encrypted) from error
        except MalformedMessage as error:
            raise Retry(f"the coordinator at {self._address} sent what is no part of the protocol: {error}") from error
        finally:
            self._end()
            clock.join()
        if not self._closing:
            raise Retry(f"the coordinator at {self._address} closed the stream without a word")

    def close(self) -> None:
        """Tell the coordinator to forget the session; called with `changed` held."""
        self._closing = True
        if not self.opened:
            self._over.set()
        self._changed.notify_all()

    def cancel(self) -> None:
        """End the stream at once."""
        self._call.cancel()

    def _end(self) -> None:
        with self._changed:
            self._over.set()
            self._changed.notify_all()
        self._call.cancel()

    def _frames(self, opening: Open) -> Iterator[SplitClientFrame]:
        yield SplitClientFrame(open=opening)
        while (frames := self._next_frames()) is not None:
            yield from frames

    def _next_frames(self) -> Iterator[SplitClientFrame] | None:
        """What to send next, None where the stream is over; waits."""
        with self._changed:
            while not self._over.is_set():
                if self._closing:
                    self._over.set()
                    return iter([SplitClientFrame(close=Close())])
                if self._beat:
                    self._beat = False
                    return iter([SplitClientFrame(heartbeat=Heartbeat())])
                if (taken := self._numbers.next_taken()) is not None:
                    return iter([SplitClientFrame(taken=Taken(number=taken[0], backward=taken[1] == "backward"))])
                if (ask := self._numbers.next_ask()) is not None:
                    return frames_of_ask(ask, self._terms.chunk_bytes)
                self._changed.wait()
        return None

    def _take(self, frame: SplitServerFrame) -> None:
        self.last_seen = time.monotonic()
        match frame.WhichOneof("frame"):
            case "refusal":
                raise refused(self._address, frame.refusal)
            case "heartbeat":
                return
        with self._changed:
            if self._gathering is None:
                self._open(frame)
            elif (answer := take_answer(self._gathering, frame)) is not None:
                self._numbers.take(answer)
                self.answers += 1
            else:
                return
            self._changed.notify_all()

    def _open(self, frame: SplitServerFrame) -> None:
        if not frame.HasField("opened"):
            raise MalformedMessage("the first frame is no Opened")
        self._terms = terms = frame.opened
        if not (terms.window >= 1 and terms.chunk_bytes >= 1 and terms.heartbeat_s > 0):
            raise TransportError(f"the coordinator at {self._address} opens the body on terms that cannot be kept")
        self._on_opened(terms)
        self._gathering = Gathering(coding_of(terms), self._numbers.check)
        self._numbers.opened(terms.window, resumed=terms.resumed, held=terms.held, held_back=terms.held_back)

    def _keep_time(self) -> None:
        while not self._over.wait(self._terms.heartbeat_s if self.opened else _UNTIL_OPENED_S):
            heartbeat_s = self._terms.heartbeat_s if self.opened else _FIRST_HEARTBEAT_S
            if time.monotonic() - self.last_seen > heartbeat_s * _SILENT_HEARTBEATS:
                self._call.cancel()
                return
            with self._changed:
                self._beat = self.opened
                self._changed.notify_all()
