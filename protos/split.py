"""Asks and answers of a split model as frames, and back: a tensor in chunks, checked before memory is taken for it."""

import zlib
from collections.abc import Callable, Iterator
from typing import Generic, TypeVar

from fedtune.errors import MalformedMessage
from fedtune.split.activations import Kind, Shape
from fedtune.split.asks import Answer, Ask, BackwardAsk, Coding, ForwardAsk, Packed, Span, StepAsk, Stepped
from protos.fedtune.v1 import split_pb2
from protos.fedtune.v1.split_pb2 import SplitClientFrame, SplitServerFrame
from protos.transfer import DamagedTransfer

MessageT = TypeVar("MessageT")
_KINDS: dict[str, Kind] = {"fp32": "fp32", "fp16": "fp16", "bf16": "bf16", "int8": "int8", "topk": "topk"}


def frames_of_ask(ask: Ask, chunk_bytes: int) -> Iterator[SplitClientFrame]:
    """The frames that carry an ask."""
    frame = SplitClientFrame()
    if isinstance(ask, StepAsk):
        frame.step.number, frame.step.factor, frame.step.last = ask.number, ask.factor, ask.last
        yield frame
        return
    if isinstance(ask, ForwardAsk):
        frame.forward.number, frame.forward.mask, frame.forward.silent = ask.number, ask.mask, ask.silent
        _set_span(frame.forward.output, ask.output)
        if ask.gradient is not None:
            _set_span(frame.forward.gradient, ask.gradient)
        packed, tensor = ask.hidden, frame.forward.hidden
    else:
        frame.backward.number = ask.number
        packed, tensor = ask.gradient, frame.backward.gradient
    _begin(tensor, packed, chunk_bytes)
    yield frame
    for data in _rest(packed, chunk_bytes):
        yield SplitClientFrame(more=split_pb2.More(data=data))


def frames_of_answer(answer: Answer | Stepped, chunk_bytes: int) -> Iterator[SplitServerFrame]:
    """The frames that carry an answer, or the word that steps have come."""
    frame = SplitServerFrame()
    if isinstance(answer, Stepped):
        frame.stepped.count = answer.count
        yield frame
        return
    frame.result.number, frame.result.backward = answer.number, answer.way == "backward"
    _begin(frame.result.tensor, answer.tensor, chunk_bytes)
    yield frame
    for data in _rest(answer.tensor, chunk_bytes):
        yield SplitServerFrame(more=split_pb2.More(data=data))


class Gathering(Generic[MessageT]):
    """Puts the messages of one direction together.

    Guarantees: no byte of a tensor is held before `check` has seen everything else of its message, and its announced
    length is what its shape takes; memory grows with what arrived.

    Args:
        check: sees each message with an empty tensor of the right shape; raises what refuses it.
    """

    def __init__(self, coding: Coding, check: Callable[[MessageT], None]) -> None:
        self._coding = coding
        self._check = check
        self._make: Callable[[Packed], MessageT] | None = None
        self._shape: Shape = (0, 0, 0)
        self._crc32 = 0
        self._buffer = bytearray()

    def begin(self, tensor: split_pb2.Activations, make: Callable[[Packed], MessageT]) -> MessageT | None:
        """A message begins, and is whole where its tensor fits into one frame.

        Raises:
            MalformedMessage: another one is not whole yet, or the length is not that of the shape.
            DamagedTransfer: the checksum does not fit.
        """
        if self._make is not None:
            raise MalformedMessage("a message begins in the middle of another one's tensor")
        shape = (tensor.rows, tensor.tokens, tensor.width)
        if min(shape[0], shape[2]) < 1 or tensor.total_bytes != self._coding.size(shape):
            raise MalformedMessage(f"{tensor.total_bytes} bytes are announced for a tensor of shape {shape}")
        self._check(make(Packed(shape, b"")))
        if not shape[1] and not tensor.data and not tensor.crc32:
            return make(Packed(shape, b""))
        self._make, self._shape, self._crc32, self._buffer = make, shape, tensor.crc32, bytearray()
        return self.more(tensor.data)

    def between(self) -> None:
        """A frame that stands for itself; raises MalformedMessage in the middle of a tensor."""
        if self._make is not None:
            raise MalformedMessage("a step in the middle of a tensor")

    def more(self, data: bytes) -> MessageT | None:
        """More of the tensor; the message where it is whole."""
        if self._make is None:
            raise MalformedMessage("a piece of a tensor that was not begun")
        total = self._coding.size(self._shape)
        if not data or len(self._buffer) + len(data) > total:
            raise MalformedMessage(f"a piece of {len(data)} bytes after {len(self._buffer)} of {total}")
        self._buffer += data
        if len(self._buffer) < total:
            return None
        make, self._make = self._make, None
        buffer, self._buffer = self._buffer, bytearray()
        if zlib.crc32(buffer) != self._crc32:
            raise DamagedTransfer("a tensor was changed on the way: its CRC-32 does not fit")
        return make(Packed(self._shape, buffer))


def take_ask(gathering: Gathering[Ask], frame: SplitClientFrame) -> Ask | None:
    """The ask that this frame completes; raises MalformedMessage for frames that are no part of one."""
    match frame.WhichOneof("frame"):
        case "forward":
            head = frame.forward
            number, mask, output, silent = head.number, head.mask, _span(head.output), head.silent
            gradient = _span(head.gradient) if head.HasField("gradient") else None
            return gathering.begin(
                head.hidden, lambda packed: ForwardAsk(number, packed, mask, output, gradient, silent)
            )
        case "backward":
            number = frame.backward.number
            return gathering.begin(frame.backward.gradient, lambda packed: BackwardAsk(number, packed))
        case "step":
            gathering.between()
            return StepAsk(frame.step.number, frame.step.factor, frame.step.last)
        case "more":
            return gathering.more(frame.more.data)
    raise MalformedMessage(f"a frame {frame.WhichOneof('frame')!r} that is no part of an open stream")


def take_answer(gathering: Gathering[Answer], frame: SplitServerFrame) -> Answer | Stepped | None:
    """The answer that this frame completes; raises MalformedMessage for frames that are no part of one."""
    match frame.WhichOneof("frame"):
        case "result":
            number, backward = frame.result.number, frame.result.backward
            return gathering.begin(
                frame.result.tensor, lambda packed: Answer(number, "backward" if backward else "forward", packed)
            )
        case "stepped":
            gathering.between()
            return Stepped(frame.stepped.count)
        case "more":
            return gathering.more(frame.more.data)
    raise MalformedMessage(f"a frame {frame.WhichOneof('frame')!r} that is no part of an open stream")


def coding_of(opened: split_pb2.Opened) -> Coding:
    """How numbers cross, as the coordinator says; raises MalformedMessage where this fedtune knows no such way."""
    if opened.codec not in _KINDS or not 0 < opened.topk <= 1:
        raise MalformedMessage(f"the coordinator's activations are {opened.codec[:20]!r}; install the same fedtune")
    return Coding(_KINDS[opened.codec], opened.topk)


def _begin(tensor: split_pb2.Activations, packed: Packed, chunk_bytes: int) -> None:
    tensor.rows, tensor.tokens, tensor.width = packed.shape
    tensor.total_bytes, tensor.crc32 = len(packed.data), zlib.crc32(packed.data)
    tensor.data = bytes(memoryview(packed.data)[:chunk_bytes])


def _rest(packed: Packed, chunk_bytes: int) -> Iterator[bytes]:
    view = memoryview(packed.data)
    for start in range(chunk_bytes, len(view), chunk_bytes):
        yield bytes(view[start : start + chunk_bytes])


def _set_span(span: split_pb2.Span, tokens: Span) -> None:
    span.SetInParent()  # an empty stretch is there too
    span.begin, span.end = tokens


def _span(span: split_pb2.Span) -> Span:
    return span.begin, span.end
