"""The envelope of every message: magic, version, kind, bounded lengths, JSON header, safetensors body, checksum.

    offset  size  field
    0       4     b"FDTN"
    4       1     version, 1
    5       1     kind, an index into KINDS
    6       4     header length h, big-endian
    10      8     body length b, big-endian
    18      h     header, UTF-8 JSON
    18+h    b     body: a safetensors file, or nothing where the message has no tensors
    18+h+b  16    the first half of SHA-256 over all that comes before

Nothing is unpickled and nothing is read past a length that was checked first.
"""

import hashlib
import struct
from collections.abc import Mapping
from typing import NamedTuple

import torch
from safetensors import SafetensorError
from safetensors.numpy import save as save_arrays
from safetensors.torch import load as load_tensors
from safetensors.torch import save as save_tensors

from fedtune.errors import MalformedMessage, OversizeMessage

KINDS = ("task", "update", "evaluation", "refusal")
VERSION = 1
MAX_HEADER_BYTES = 1 << 20
MAX_MESSAGE_BYTES = 4 << 30
OVERHEAD_BYTES = 34
_PREFIX = struct.Struct(">4sBBIQ")
_MAGIC = b"FDTN"
_CHECKSUM_BYTES = 16
_NUMPY = frozenset({torch.float32, torch.float64, torch.int8, torch.uint8, torch.int32, torch.int64})


class Envelope(NamedTuple):
    """A message taken apart, its header not yet looked into."""

    kind: str
    header: bytes
    tensors: dict[str, torch.Tensor]


def pack(kind: str, header: bytes, tensors: Mapping[str, torch.Tensor]) -> bytes:
    """The bytes of one message; `tensors` are contiguous and on the CPU."""
    if len(header) > MAX_HEADER_BYTES:
        raise OversizeMessage(f"a message header of {len(header)} bytes is over the limit of {MAX_HEADER_BYTES}")
    body = _body(tensors) if tensors else b""
    prefix = _PREFIX.pack(_MAGIC, VERSION, KINDS.index(kind), len(header), len(body))
    hasher = hashlib.sha256(prefix)
    hasher.update(header)
    hasher.update(body)
    return b"".join((prefix, header, body, hasher.digest()[:_CHECKSUM_BYTES]))


def unpack(data: bytes, *, max_bytes: int = MAX_MESSAGE_BYTES) -> Envelope:
    """Take a message apart.

    Raises OversizeMessage for more than `max_bytes` bytes, MalformedMessage for anything that `pack` did not make.
    """
    if len(data) > max_bytes:
        raise OversizeMessage(f"a message of {len(data)} bytes is over the limit of {max_bytes}")
    kind, header_end, body_end = _lengths(data)
    view = memoryview(data)
    if hashlib.sha256(view[:body_end]).digest()[:_CHECKSUM_BYTES] != view[body_end:]:
        raise MalformedMessage("a message was changed on the way: its checksum does not fit")
    return Envelope(kind, bytes(view[_PREFIX.size : header_end]), _tensors(bytes(view[header_end:body_end])))


def _lengths(data: bytes) -> tuple[str, int, int]:
    if len(data) < OVERHEAD_BYTES:
        raise MalformedMessage(f"a message of {len(data)} bytes is cut short")
    magic, version, kind, header_bytes, body_bytes = _PREFIX.unpack_from(data)
    if magic != _MAGIC:
        raise MalformedMessage("these bytes are no fedtune message")
    if version != VERSION:
        raise MalformedMessage(f"message format {version} is not format {VERSION}; run the same fedtune on both sides")
    if kind >= len(KINDS) or header_bytes > MAX_HEADER_BYTES:
        raise MalformedMessage("a message has an unknown kind or too long a header")
    header_end = _PREFIX.size + header_bytes
    body_end = header_end + body_bytes
    if body_end + _CHECKSUM_BYTES != len(data):
        raise MalformedMessage("a message is cut short or too long: its lengths do not add up")
    return KINDS[kind], header_end, body_end


def _body(tensors: Mapping[str, torch.Tensor]) -> bytes:
    """The same bytes by either way; NumPy, which has not all of torch's kinds of numbers, takes a third of the time."""
    if all(tensor.dtype in _NUMPY for tensor in tensors.values()):
        return save_arrays({name: tensor.detach().numpy() for name, tensor in tensors.items()})
    return save_tensors(dict(tensors))


def _tensors(body: bytes) -> dict[str, torch.Tensor]:
    if not body:
        return {}
    try:
        return dict(load_tensors(body))
    except (SafetensorError, ValueError, KeyError, RuntimeError, TypeError) as error:
        raise MalformedMessage("a message holds no readable tensors") from error
