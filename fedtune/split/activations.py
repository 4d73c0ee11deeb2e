"""Activations and their gradients as bytes: five codecs, each of a size known beforehand and with a stated error."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch

from fedtune.errors import MalformedMessage, TrainingError
from fedtune.split.bits import pack_bits, unpack_bits

Kind = Literal["fp32", "fp16", "bf16", "int8", "topk"]
Shape = tuple[int, int, int]
"""Rows, tokens and width of a tensor."""
TINY = 2.0**-100
"""A token whose largest number is below this is sent as zeros by `int8` and `topk`."""
_LEVELS = 127
_FP32_MAX = torch.finfo(torch.float32).max
_BF16_MAX = torch.finfo(torch.bfloat16).max
_LARGEST_SCALE = _FP32_MAX / 128
_FP16_TOP = 2.0**15 - 2.0**4
"""The largest fp16 number below 2^15."""


def encoded_bytes(shape: Shape, kind: Kind, topk: float = 0.1) -> int:
    """The bytes that a (B, T, D) tensor takes, whatever numbers it holds."""
    batch, tokens, width = shape
    return _CODECS[kind].size(batch * tokens, width, kept_of(width, topk))


def encode(tensor: torch.Tensor, kind: Kind, topk: float = 0.1) -> bytes:
    """A (B, T, D) tensor as bytes, from any device and floating dtype.

    Raises:
        TrainingError: where a number is NaN or infinite.
    """
    batch, tokens, width = tensor.shape
    flat = tensor.detach().to(torch.float32).reshape(batch * tokens, width)
    low, high = flat.aminmax()
    largest = float(torch.maximum(-low, high))
    if not math.isfinite(largest):
        raise TrainingError("the activations at a cut are not finite; lower training.lr, or train in fp32")
    parts = _CODECS[kind].encode(flat, largest, kept_of(width, topk))
    return b"".join(part.contiguous().view(torch.uint8).cpu().numpy().tobytes() for part in parts)


def decode(
    data: bytes | bytearray, shape: Shape, kind: Kind, topk: float = 0.1, *, device: torch.device | str = "cpu"
) -> torch.Tensor:
    """The (B, T, D) fp32 tensor in `data`, on `device`.

    The length is compared with what `shape` takes before any memory is; `shape` itself is the caller's to bound.

    Raises:
        MalformedMessage: another length, a number that is not finite, or positions that cannot be.
    """
    if min(shape) < 1 or len(data) != encoded_bytes(shape, kind, topk):
        raise MalformedMessage(f"{len(data)} bytes are no {kind} tensor of shape {shape}; run the same fedtune on both")
    raw = torch.frombuffer(data if isinstance(data, bytearray) else bytearray(data), dtype=torch.uint8).to(device)
    rows, width = shape[0] * shape[1], shape[2]
    return _CODECS[kind].decode(raw, rows, width, kept_of(width, topk)).reshape(shape)


def error_bound(tensor: torch.Tensor, kind: Kind, topk: float = 0.1) -> torch.Tensor:
    """What each number of `tensor` may be off by after `encode` and `decode`, of the same shape.

    fp32: nothing. fp16: 2^-11 of the number and 2^-39 of the tensor's largest, since a power of two brings the largest
    below 2^15 first. bf16: 2^-8 of the number. int8: half a step of its token's scale, which is the token's largest
    number / 127. topk: the same for what is sent; the number itself where it is not among the largest of its token.
    """
    size = tensor.detach().abs()
    largest = size.amax(-1, keepdim=True)
    step = largest / (2 * _LEVELS) * (1 + 2.0**-12) + TINY
    match kind:
        case "fp32":
            return torch.zeros_like(size)
        case "fp16":
            return size * 2.0**-11 + size.max() * 2.0**-39 + TINY
        case "bf16":
            return size * 2.0**-8 + TINY
        case "int8":
            return step.expand_as(size)
        case "topk":
            kept = kept_of(size.shape[-1], topk)
            last = size.topk(kept, dim=-1).values[..., -1:]
            return torch.where(size > last, step.expand_as(size), torch.maximum(size, step))


def roundtrip(tensor: torch.Tensor, kind: Kind, topk: float = 0.1) -> torch.Tensor:
    """What the other side sees of `tensor`: fp32, on the same device; raises TrainingError as `encode` does."""
    if kind == "fp32":
        return tensor.detach().to(torch.float32)
    batch, tokens, width = tensor.shape
    return decode(encode(tensor, kind, topk), (batch, tokens, width), kind, topk, device=tensor.device)


def kept_of(width: int, topk: float) -> int:
    """How many numbers of a token of `width` are sent by `topk`."""
    return min(width, max(1, math.ceil(topk * width - 1e-9)))


@dataclass(frozen=True, slots=True)
class _Codec:
    """`rows` tokens of `width` numbers, of which `kept` are sent."""

    size: Callable[[int, int, int], int]
    encode: Callable[[torch.Tensor, float, int], list[torch.Tensor]]
    decode: Callable[[torch.Tensor, int, int, int], torch.Tensor]


def _encode_fp32(flat: torch.Tensor, _largest: float, _kept: int) -> list[torch.Tensor]:
    return [flat.reshape(-1)]


def _decode_fp32(raw: torch.Tensor, _rows: int, _width: int, _kept: int) -> torch.Tensor:
    return _finite(raw.view(torch.float32))


def _encode_bf16(flat: torch.Tensor, _largest: float, _kept: int) -> list[torch.Tensor]:
    return [flat.clamp(-_BF16_MAX, _BF16_MAX).to(torch.bfloat16).reshape(-1)]


def _decode_bf16(raw: torch.Tensor, _rows: int, _width: int, _kept: int) -> torch.Tensor:
    return _finite(raw.view(torch.bfloat16).to(torch.float32))


def _encode_fp16(flat: torch.Tensor, largest: float, _kept: int) -> list[torch.Tensor]:
    # A power of two loses nothing: neither large activations overflow nor small gradients vanish.
    exponent = min(126, max(-126, math.frexp(largest)[1] - 15)) if largest else 0
    scale = torch.tensor([2.0**exponent], device=flat.device)
    scaled = flat / scale
    if largest > _FP16_TOP * 2.0**exponent:  # would round up to a power of two, which beside fp32's largest is infinite
        scaled = scaled.clamp(-_FP16_TOP, _FP16_TOP)
    return [scale.view(torch.uint8), scaled.to(torch.float16).reshape(-1).view(torch.uint8)]


def _decode_fp16(raw: torch.Tensor, _rows: int, _width: int, _kept: int) -> torch.Tensor:
    scale = raw[:4].view(torch.float32)
    if not 0 < float(scale) < math.inf:
        raise MalformedMessage("the scale of an fp16 tensor is no positive number")
    return _finite(raw[4:].view(torch.float16).to(torch.float32) * scale)


def _encode_int8(flat: torch.Tensor, _largest: float, _kept: int) -> list[torch.Tensor]:
    scales, steps = _scales(flat)
    return [scales.reshape(-1).view(torch.uint8), _round(flat, steps).reshape(-1).view(torch.uint8)]


def _decode_int8(raw: torch.Tensor, rows: int, width: int, _kept: int) -> torch.Tensor:
    return _read_scales(raw, rows) * raw[4 * rows :].view(torch.int8).reshape(rows, width)


def _size_topk(rows: int, width: int, kept: int) -> int:
    return rows * (4 + _where_bytes(width, kept) + kept)


def _encode_topk(flat: torch.Tensor, _largest: float, kept: int) -> list[torch.Tensor]:
    rows, width = flat.shape
    scales, steps = _scales(flat)
    places = flat.abs().topk(kept, dim=1, sorted=False).indices.sort(dim=1).values
    values = _round(flat.gather(1, places), steps)
    if _as_bits(width, kept):
        chosen = torch.zeros(rows, width, dtype=torch.bool, device=flat.device).scatter_(1, places, value=True)
        where = pack_bits(chosen)
    else:
        where = places.to(_place_dtype(width))
    return [scales.reshape(-1).view(torch.uint8), where.reshape(-1).view(torch.uint8), values.reshape(-1)]


def _decode_topk(raw: torch.Tensor, rows: int, width: int, kept: int) -> torch.Tensor:
    scales, after = _read_scales(raw, rows), 4 * rows + rows * _where_bytes(width, kept)
    places = _read_places(raw[4 * rows : after], rows, width, kept)
    values = raw[after:].view(torch.int8).reshape(rows, kept)
    return torch.zeros(rows, width, device=raw.device).scatter_(1, places, scales * values)


def _read_places(raw: torch.Tensor, rows: int, width: int, kept: int) -> torch.Tensor:
    if _as_bits(width, kept):
        chosen = unpack_bits(raw.reshape(rows, -1), width)
        if not bool((chosen.sum(1) == kept).all()):
            raise MalformedMessage(f"a top-k tensor does not mark {kept} numbers of each token")
        return chosen.nonzero()[:, 1].reshape(rows, kept)
    places = raw.view(_place_dtype(width)).reshape(rows, kept).to(torch.int64)
    if not bool((places < width).all() and (places >= 0).all() and (places.diff(dim=1) > 0).all()):
        raise MalformedMessage(f"a top-k tensor has positions that are not {kept} rising ones below {width}")
    return places


def _as_bits(width: int, kept: int) -> bool:
    return (width + 7) // 8 <= kept * _place_dtype(width).itemsize


def _where_bytes(width: int, kept: int) -> int:
    return min((width + 7) // 8, kept * _place_dtype(width).itemsize)


def _place_dtype(width: int) -> torch.dtype:
    return torch.int16 if width <= 1 << 15 else torch.int32


def _scales(flat: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """(rows, 1): a token's scale as it is sent, and what to divide by."""
    largest = flat.abs().amax(1, keepdim=True)
    scales = torch.where(largest < TINY, 0.0, largest / _LEVELS)
    return scales, torch.where(scales == 0, math.inf, scales)


def _round(numbers: torch.Tensor, steps: torch.Tensor) -> torch.Tensor:
    return (numbers / steps).round().clamp(-_LEVELS, _LEVELS).to(torch.int8)


def _read_scales(raw: torch.Tensor, rows: int) -> torch.Tensor:
    scales = raw[: 4 * rows].view(torch.float32).reshape(rows, 1)
    if not bool(((scales >= 0) & (scales <= _LARGEST_SCALE)).all()):
        raise MalformedMessage("the scale of a token is negative or not finite")
    return scales


def _finite(numbers: torch.Tensor) -> torch.Tensor:
    # NaN and infinities both show in the extremes, and no mask of the tensor's size is made.
    if not all(math.isfinite(float(extreme)) for extreme in numbers.aminmax()):
        raise MalformedMessage("a tensor holds NaN or infinity")
    return numbers


_CODECS: dict[Kind, _Codec] = {
    "fp32": _Codec(lambda rows, width, _: 4 * rows * width, _encode_fp32, _decode_fp32),
    "fp16": _Codec(lambda rows, width, _: 4 + 2 * rows * width, _encode_fp16, _decode_fp16),
    "bf16": _Codec(lambda rows, width, _: 2 * rows * width, _encode_bf16, _decode_bf16),
    "int8": _Codec(lambda rows, width, _: rows * (4 + width), _encode_int8, _decode_int8),
    "topk": _Codec(_size_topk, _encode_topk, _decode_topk),
}
