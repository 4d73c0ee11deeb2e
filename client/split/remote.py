"""A body that is the coordinator's: micro-batches go over a stream that is opened again whenever it breaks."""

import logging
import math
import threading
import time
import uuid
from collections.abc import Callable
from concurrent.futures import Future

import torch

from client.link.backoff import Backoff
from client.link.channel import check_unencrypted, open_channel
from client.link.credentials import ClientKeys
from client.link.refusals import Retry
from client.split.numbers import Numbers
from client.split.pending import RemotePending
from client.split.stream import SplitStream
from fedtune import __version__
from fedtune.errors import FedtuneError, OversizeMessage, TransportError
from fedtune.split.asks import BackwardAsk, Coding, ForwardAsk, Packed, span_of
from fedtune.split.base import OpenBody, Share, Smashed, Wants
from fedtune.split.bits import pack_mask
from fedtune.split.limits import FP32_BYTES
from protos.address import Address, parse_address
from protos.fedtune.v1.link_pb2 import Hello
from protos.fedtune.v1.split_pb2 import Open, Opened
from protos.limits import FRAME_ROOM_BYTES, PROTOCOL
from protos.split import coding_of

_log = logging.getLogger("fedtune.split")
RETRY_FOR_S = 300.0
"""So long the coordinator may be out of reach, where nothing else is said."""
_WINDOW = 64
_FAREWELL_S = 2.0
_FRUITLESS = 20
"""Streams that break one after another without an answer, after which this side gives up."""


def remote_bodies(
    coordinator: str,
    keys: ClientKeys | None,
    *,
    retry_for_s: float = RETRY_FOR_S,
    answer_s: float = 600.0,
    window: int = _WINDOW,
    backoff: Callable[[], Backoff] = Backoff,
) -> OpenBody:
    """Bodies for this client's shares at `coordinator`, `host:port`: as the link's, over the same port and TLS.

    How numbers cross and how many micro-batches may be in flight is the coordinator's to say, when a share is opened.

    Args:
        keys: the bundle; None for an unencrypted stream, to loopback only, under the share's name.
        retry_for_s: so long the coordinator may be out of reach.
        answer_s: so long an answer may take.
        window: at most so many micro-batches in flight, whatever the coordinator grants.

    Opening a share raises TransportError or EnrolmentError where the coordinator refuses or is out of reach.
    """
    address = parse_address(coordinator)
    if keys is None:
        check_unencrypted(address)

    def open_body(share: Share) -> RemoteBody:
        return RemoteBody(address, keys, share, retry_for_s, answer_s, window, backoff())

    return open_body


class RemoteBody:
    """A `Body` at the coordinator, for one share.

    Guarantees: after a broken connection each micro-batch is answered as it would have been; what is kept for that, an
    input until its gradient is here, is let go of with the answer.
    """

    def __init__(
        self,
        address: Address,
        keys: ClientKeys | None,
        share: Share,
        retry_for_s: float,
        answer_s: float,
        window: int,
        backoff: Backoff,
    ) -> None:
        self._address = address
        self._keys = keys
        self._share = share
        self._retry_for_s = retry_for_s
        self._answer_s = answer_s
        self._wanted = window
        self._backoff = backoff
        self._session = uuid.uuid4().hex
        self._changed = threading.Condition()
        self._numbers = Numbers()
        self._coding = Coding()
        self._terms: Opened | None = None
        self._error: FedtuneError | None = None
        self._closing = threading.Event()
        self._stream: SplitStream | None = None
        self._thread = threading.Thread(target=self._run, name="fedtune-split", daemon=True)
        self._thread.start()
        terms = self._wait_for_terms()
        self.in_flight, self.trains = terms.window, terms.trains

    def forward(self, number: int, smashed: Smashed, wants: Wants, *, train: bool) -> RemotePending:
        """As `Body.forward`; raises OversizeMessage where the coordinator would not take it."""
        tokens = smashed.hidden.shape[1]
        hidden, mask = self._coding.pack(smashed.hidden), pack_mask(smashed.mask)
        self._check_size(hidden, mask)
        gradient = span_of(wants.gradient, tokens) if train and wants.gradient is not None else None
        ask = ForwardAsk(number, hidden, mask, span_of(wants.output, tokens), gradient)
        return self._ask(number, lambda: self._numbers.forward(ask))

    def backward(self, number: int, gradient: torch.Tensor) -> RemotePending:
        """As `Body.backward`; raises ValueError where no gradient of this micro-batch was to come."""
        ask = BackwardAsk(number, self._coding.pack(gradient))
        return self._ask(number, lambda: self._numbers.backward(ask))

    def step(self, factor: float, *, last: bool) -> None:
        """As `Body.step`; with `last` the coordinator has confirmed every step when this returns."""
        with self._changed:
            self._refuse_over()
            future = self._numbers.step(factor, last=last)
            self._changed.notify_all()
        if not last:
            return
        try:
            future.result(self._answer_s)
        except TimeoutError:
            raise TransportError(
                f"the coordinator's body has not confirmed its last step in {self._answer_s:g} s"
            ) from None

    def close(self) -> None:
        """Tell the coordinator to forget the share; whoever waits for an answer gets a TransportError."""
        with self._changed:
            if not self._closing.is_set():
                self._closing.set()
                self._numbers.fail(TransportError("the share was closed"))
                if self._stream is not None:
                    self._stream.close()
        self._thread.join(_FAREWELL_S)
        stream = self._stream
        if self._thread.is_alive() and stream is not None:
            stream.cancel()
            self._thread.join(_FAREWELL_S)

    @property
    def kept_bytes(self) -> int:
        """What is kept here to be sent again."""
        with self._changed:
            return self._numbers.kept_bytes

    def _ask(self, number: int, say: "Callable[[], Future[Packed]]") -> RemotePending:
        with self._changed:
            self._refuse_over()
            future = say()
            self._changed.notify_all()
        return RemotePending(future, self._coding, number, self._answer_s)

    def _refuse_over(self) -> None:
        if self._error is not None:
            raise self._error
        if self._closing.is_set():
            raise TransportError("the share is closed; open another one")

    def _check_size(self, hidden: Packed, mask: bytes) -> None:
        limit = self._terms.max_tensor_bytes if self._terms else 0
        size = math.prod(hidden.shape) * FP32_BYTES
        if size > limit or len(mask) > FRAME_ROOM_BYTES // 2:
            raise OversizeMessage(
                f"activations of {size} bytes are over the coordinator's limit of {limit}; lower training.batch_size"
            )

    # -- the thread

    def _run(self) -> None:
        last_contact, fruitless = time.monotonic(), 0
        while not self._closing.is_set():
            stream = None
            try:
                with open_channel(self._address, self._keys) as channel:
                    stream = SplitStream(channel, self._address, self._numbers, self._changed, self._on_opened)
                    self._converse(stream)
                return
            except Retry as retry:
                if stream is not None and stream.opened:
                    last_contact = stream.last_seen
                    fruitless = 0 if stream.answers or not self._numbers.unfinished else fruitless + 1
                out_of_reach_s = time.monotonic() - last_contact
                if out_of_reach_s > self._retry_for_s or fruitless >= _FRUITLESS:
                    self._give_up(TransportError(f"{retry} (tried for {out_of_reach_s:.0f} s)"))
                    return
                delay_s = self._backoff.next_s()
                _log.info("%s; next attempt in %.1f s", retry, delay_s)
                self._closing.wait(delay_s)
            except FedtuneError as error:
                self._give_up(error)
                return
            except Exception as error:
                _log.exception("the stream to the body failed")
                self._give_up(TransportError(f"the stream to the body failed ({type(error).__name__})"))
                return

    def _converse(self, stream: SplitStream) -> None:
        with self._changed:
            if self._closing.is_set():
                return
            self._stream = stream
        try:
            stream.converse(self._opening(), encrypted=self._keys is not None)
        finally:
            with self._changed:
                self._stream = None
                self._numbers.lost()

    def _opening(self) -> Open:
        name = self._keys.name if self._keys else self._share.client
        hello = Hello(protocol=PROTOCOL, software=__version__, session=self._session, name=name)
        body = self._terms.body if self._terms else ""
        return Open(hello=hello, run=self._share.run, round=self._share.round, window=self._wanted, body=body)

    def _on_opened(self, opened: Opened) -> None:
        coding = coding_of(opened)
        if self._terms is not None and (coding, opened.width) != (self._coding, self._terms.width):
            raise TransportError("the coordinator has changed how activations cross the cuts within a round")
        if opened.trains and not opened.resumed and self._numbers.begun:
            raise TransportError("the coordinator has forgotten the body that it trained for this share, which is lost")
        opened.window = min(opened.window, self._wanted)
        self._coding, self._terms = coding, opened
        self._backoff.reset()
        self._changed.notify_all()

    def _give_up(self, error: FedtuneError) -> None:
        with self._changed:
            self._error = error
            self._numbers.fail(error)
            self._changed.notify_all()

    def _wait_for_terms(self) -> Opened:
        with self._changed:
            self._changed.wait_for(lambda: self._terms is not None or self._error is not None)
            if self._terms is None:
                raise self._error or TransportError("the body was not opened")
            return self._terms
