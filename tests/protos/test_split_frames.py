"""Frames of a split model: what was asked arrives; anything else is refused before memory is taken for it."""

import zlib

import pytest
from google.protobuf.message import DecodeError
from hypothesis import given, settings
from hypothesis import strategies as st

from fedtune.errors import MalformedMessage
from fedtune.split.asks import Answer, Ask, BackwardAsk, Coding, ForwardAsk, Packed
from protos.fedtune.v1.split_pb2 import Activations, Forward, More, Opened, Result, SplitClientFrame, SplitServerFrame
from protos.split import Gathering, coding_of, frames_of_answer, frames_of_ask, take_answer, take_ask
from protos.transfer import DamagedTransfer

CODING = Coding()
packs = st.builds(
    lambda rows, tokens, byte: Packed((rows, tokens, 3), bytes([byte]) * (12 * rows * tokens)),
    st.integers(1, 3),
    st.integers(1, 5),
    st.integers(0, 255),
)
spans = st.tuples(st.integers(0, 9), st.integers(0, 9))
numbers = st.integers(0, 1 << 40)
forwards = st.builds(ForwardAsk, numbers, packs, st.binary(max_size=4), spans, st.none() | spans, st.booleans())
asks: st.SearchStrategy[Ask] = st.one_of(forwards, st.builds(BackwardAsk, numbers, packs))
answers = st.builds(Answer, numbers, st.sampled_from(["forward", "backward"]), packs)


def _asks(checked: list[Ask] | None = None) -> Gathering[Ask]:
    return Gathering(CODING, (checked if checked is not None else []).append)


@given(st.lists(asks, max_size=4), st.integers(1, 70))
def test_asks_arrive_as_they_were_made_and_are_looked_at_before_their_bytes(sent: list[Ask], chunk: int) -> None:
    checked: list[Ask] = []
    gathering = _asks(checked)
    arrived = []
    for ask in sent:
        frames = [SplitClientFrame.FromString(frame.SerializeToString()) for frame in frames_of_ask(ask, chunk)]
        results = [take_ask(gathering, frame) for frame in frames]
        assert results[:-1] == [None] * (len(frames) - 1)
        arrived.append(results[-1])
    assert arrived == sent
    assert [_shape(ask) for ask in checked] == [_shape(ask) for ask in sent]
    assert not any(_tensor(ask).data for ask in checked)


def _tensor(ask: Ask) -> Packed:
    return ask.hidden if isinstance(ask, ForwardAsk) else ask.gradient


def _shape(ask: Ask) -> tuple[object, ...]:
    return type(ask), ask.number, _tensor(ask).shape


@given(answers, st.integers(1, 70))
def test_answers_arrive_as_they_were_made(answer: Answer, chunk: int) -> None:
    gathering: Gathering[Answer] = Gathering(CODING, lambda _: None)
    results = [take_answer(gathering, frame) for frame in frames_of_answer(answer, chunk)]
    assert results[-1] == answer


@settings(max_examples=300)
@given(st.lists(st.binary(max_size=60), max_size=4), st.lists(asks, min_size=1, max_size=2), st.data())
def test_any_frames_are_an_ask_or_are_refused(noise: list[bytes], sent: list[Ask], data: st.DataObject) -> None:
    """Truncated, swapped, repeated and made up: nothing but MalformedMessage, and never more than was announced."""
    raw = [frame.SerializeToString() for ask in sent for frame in frames_of_ask(ask, 20)] + noise
    order = data.draw(st.permutations(raw))
    gathering = _asks()
    for one in order:
        cut = data.draw(st.integers(0, len(one)))
        try:
            frame = SplitClientFrame.FromString(one[:cut])
        except DecodeError:  # gRPC ends such a stream
            continue
        try:
            ask = take_ask(gathering, frame)
        except MalformedMessage:
            continue
        if ask is not None:
            assert len(_tensor(ask).data) == CODING.size(_tensor(ask).shape)


def _announced(**changes: int) -> SplitClientFrame:
    data = bytes(12)
    fields = {"rows": 1, "tokens": 1, "width": 3, "total_bytes": 12, "crc32": zlib.crc32(data)} | changes
    return SplitClientFrame(forward=Forward(number=0, hidden=Activations(data=data, **fields)))


@pytest.mark.parametrize(
    "changes", [{"total_bytes": 13}, {"total_bytes": 1 << 60}, {"rows": 0}, {"width": 1 << 31, "total_bytes": 12}]
)
def test_a_length_that_is_not_the_shapes_is_refused(changes: dict[str, int]) -> None:
    checked: list[Ask] = []
    with pytest.raises(MalformedMessage, match="are announced for a tensor of shape"):
        take_ask(_asks(checked), _announced(**changes))
    assert not checked


def test_what_the_check_refuses_leaves_no_bytes() -> None:
    def refuse(_: Ask) -> None:
        raise MalformedMessage("no")

    gathering: Gathering[Ask] = Gathering(CODING, refuse)
    with pytest.raises(MalformedMessage, match="no"):
        take_ask(gathering, _announced())
    with pytest.raises(MalformedMessage, match="was not begun"):
        take_ask(gathering, SplitClientFrame(more=More(data=b"1")))


def test_a_changed_byte_is_noticed() -> None:
    with pytest.raises(DamagedTransfer, match="CRC-32"):
        take_ask(_asks(), _announced(crc32=1))


def test_a_tensor_is_followed_by_its_own_bytes_alone() -> None:
    ask = BackwardAsk(0, Packed((1, 1, 3), bytes(12)))
    for bad in (next(frames_of_ask(ask, 5)), SplitClientFrame(more=More(data=b"")), SplitClientFrame()):
        gathering = _asks()
        take_ask(gathering, next(frames_of_ask(ask, 5)))
        with pytest.raises(MalformedMessage):
            take_ask(gathering, bad)
    gathering = _asks()
    take_ask(gathering, next(frames_of_ask(ask, 5)))
    with pytest.raises(MalformedMessage, match="a piece of 8 bytes after 5 of 12"):
        take_ask(gathering, SplitClientFrame(more=More(data=bytes(8))))


def test_frames_of_another_kind_are_refused() -> None:
    gathering: Gathering[Answer] = Gathering(CODING, lambda _: None)
    for frame in (SplitServerFrame(), SplitServerFrame(opened=Opened())):
        with pytest.raises(MalformedMessage, match="no part of an open stream"):
            take_answer(gathering, frame)
    with pytest.raises(MalformedMessage):
        take_answer(gathering, SplitServerFrame(result=Result(number=1)))


@pytest.mark.parametrize("terms", [Opened(codec="fp8", topk=0.5), Opened(codec="topk", topk=0), Opened()])
def test_a_way_to_cross_that_is_not_known_is_refused(terms: Opened) -> None:
    with pytest.raises(MalformedMessage, match="same fedtune"):
        coding_of(terms)
