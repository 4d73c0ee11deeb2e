"""Each codec keeps its size, its error bound, and refuses what no sender could have made."""

import math

import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st

from fedtune.errors import MalformedMessage, TrainingError
from fedtune.split.activations import (
    TINY,
    decode,
    encode,
    encoded_bytes,
    error_bound,
    kept_of,
    roundtrip,
)
from fedtune.split.bits import mask_bytes, pack_mask, unpack_mask

KINDS = ("fp32", "fp16", "bf16", "int8", "topk")
shapes = st.tuples(st.integers(1, 3), st.integers(1, 4), st.integers(1, 40))
kinds = st.sampled_from(KINDS)
shares = st.floats(0.01, 1.0)
numbers = st.one_of(st.floats(width=32, allow_nan=False, allow_infinity=False), st.floats(-4, 4, width=32))


@st.composite
def tensors(draw: st.DrawFn) -> torch.Tensor:
    shape = draw(shapes)
    count = math.prod(shape)
    some = draw(st.lists(numbers, min_size=1, max_size=12))
    return torch.tensor([some[i % len(some)] for i in range(count)], dtype=torch.float32).reshape(shape)


@settings(max_examples=300, deadline=None)
@example(torch.full((1, 1, 1), torch.finfo(torch.float32).max), "fp16", 1.0)
@given(tensors(), kinds, shares)
def test_no_number_is_off_by_more_than_the_stated_bound(tensor: torch.Tensor, kind: str, share: float) -> None:
    data = encode(tensor, kind, share)
    assert len(data) == encoded_bytes(tuple(tensor.shape), kind, share)
    back = decode(data, tuple(tensor.shape), kind, share)
    assert back.shape == tensor.shape
    assert back.dtype == torch.float32
    error = (back.double() - tensor.double()).abs()
    assert bool((error <= error_bound(tensor.double(), kind, share)).all())
    assert torch.equal(back, roundtrip(tensor, kind, share))


@settings(max_examples=300, deadline=None)
@given(st.binary(max_size=300), shapes, kinds, shares)
def test_any_bytes_are_a_finite_tensor_or_are_refused(data: bytes, shape: tuple, kind: str, share: float) -> None:
    data = data[: encoded_bytes(shape, kind, share)]
    for candidate in (data, data.ljust(encoded_bytes(shape, kind, share), b"\x01")):
        try:
            tensor = decode(candidate, shape, kind, share)
        except MalformedMessage:
            continue
        assert tensor.shape == shape
        assert bool(tensor.isfinite().all())


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("change", [-1, 1])
def test_another_length_is_refused_before_memory_is_taken(kind: str, change: int) -> None:
    data = encode(torch.ones(1, 2, 8), kind)
    longer = data + b"\0" if change > 0 else data[:-1]
    with pytest.raises(MalformedMessage, match=r"no .* tensor of shape"):
        decode(longer, (1, 2, 8), kind)
    with pytest.raises(MalformedMessage):
        decode(data, (1 << 20, 1 << 20, 1 << 20), kind)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_what_is_not_finite_is_not_sent(kind: str, bad: float) -> None:
    tensor = torch.ones(1, 2, 8)
    tensor[0, 1, 3] = bad
    with pytest.raises(TrainingError, match=r"not finite.*lower"):
        encode(tensor, kind)


@pytest.mark.parametrize(("kind", "dtype"), [("fp32", "<f4"), ("bf16", "<u2"), ("fp16", "<f2"), ("int8", "<f4")])
def test_what_is_not_finite_is_not_taken(kind: str, dtype: str) -> None:
    data = bytearray(encode(torch.ones(1, 2, 8), kind))
    bad = np.array([0x7F80], "<u2") if kind == "bf16" else np.array([math.inf], dtype)
    at = 4 if kind == "fp16" else 0
    data[at : at + bad.nbytes] = bad.tobytes()
    with pytest.raises(MalformedMessage):
        decode(data, (1, 2, 8), kind)


def test_fp16_holds_numbers_beyond_its_own_range_and_gradients_below_it() -> None:
    tensor = torch.tensor([[[70000.0, -1e9, 3.0]]])
    assert torch.allclose(roundtrip(tensor, "fp16"), tensor, rtol=2**-11)
    small = torch.tensor([[[1e-9, -3e-8, 2e-12]]])
    assert torch.allclose(roundtrip(small, "fp16"), small, rtol=2**-11, atol=0)


def test_int8_is_one_scale_a_token_and_rounds_to_nearest() -> None:
    tensor = torch.tensor([[[127.0, 1.4, -1.6, 0.0], [0.0, 0.0, 0.0, 0.0], [TINY / 2, 0, 0, 0]]])
    assert roundtrip(tensor, "int8").tolist() == [[[127.0, 1.0, -2.0, 0.0], [0.0] * 4, [0.0] * 4]]


@pytest.mark.parametrize(("width", "share"), [(32, 0.25), (640, 0.01), (40000, 0.0001)])
def test_topk_sends_the_largest_of_each_token_as_bits_or_as_positions(width: int, share: float) -> None:
    tensor = torch.randn(2, 3, width, generator=torch.Generator().manual_seed(3))
    back = roundtrip(tensor, "topk", share)
    kept = kept_of(width, share)
    for row, token in zip(back.reshape(-1, width), tensor.reshape(-1, width), strict=True):
        largest = set(np.argsort(-token.abs().numpy(), kind="stable")[:kept].tolist())
        assert set(row.nonzero().flatten().tolist()) <= largest
        assert float(row.abs().max()) == pytest.approx(float(token.abs().max()))
    place_bytes = min((width + 7) // 8, kept * (2 if width <= 1 << 15 else 4))
    assert encoded_bytes((2, 3, width), "topk", share) == 6 * (4 + kept + place_bytes)


def test_topk_positions_that_cannot_be_are_refused() -> None:
    shape, share = (1, 1, 640), 0.01
    good = encode(torch.randn(shape), "topk", share)
    kept = kept_of(640, share)
    for positions in ([640 + i for i in range(kept)], [5] * kept, list(range(kept, 0, -1))):
        raw = np.array(positions, "<i2").tobytes()
        with pytest.raises(MalformedMessage, match="positions"):
            decode(good[:4] + raw + good[4 + len(raw) :], shape, "topk", share)
    bits = bytearray(encode(torch.randn(1, 1, 16), "topk", 0.5))
    bits[4:6] = b"\xff\xff"
    with pytest.raises(MalformedMessage, match="does not mark"):
        decode(bits, (1, 1, 16), "topk", 0.5)


@given(st.integers(1, 4), st.integers(1, 20), st.data())
def test_masks_come_back(batch: int, tokens: int, data: st.DataObject) -> None:
    bits = data.draw(st.lists(st.booleans(), min_size=batch * tokens, max_size=batch * tokens))
    mask = torch.tensor(bits).reshape(batch, tokens).to(torch.int64)
    packed = pack_mask(mask)
    assert len(packed) == mask_bytes(batch, tokens)
    assert torch.equal(unpack_mask(packed, batch, tokens), mask)


def test_masks_of_another_length_and_bits_behind_the_end_are_refused() -> None:
    assert pack_mask(None) == b""
    assert unpack_mask(b"", 2, 3) is None
    for bad in (b"\x01\x01", b"\xff"):
        with pytest.raises(MalformedMessage):
            unpack_mask(bad, 2, 3)
