"""Booleans as bits: the masks that cross a cut, and the places of what top-k sends."""

import torch

from fedtune.errors import MalformedMessage

_BITS = (1, 2, 4, 8, 16, 32, 64, 128)


def pack_mask(mask: torch.Tensor | None) -> bytes:
    """A (B, T) mask of ones and zeros, 8 to the byte; nothing for None."""
    return b"" if mask is None else pack_bits(mask.reshape(1, -1) != 0).cpu().numpy().tobytes()


def mask_bytes(batch: int, tokens: int) -> int:
    """The bytes of a packed (B, T) mask."""
    return (batch * tokens + 7) // 8


def unpack_mask(data: bytes, batch: int, tokens: int, *, device: torch.device | str = "cpu") -> torch.Tensor | None:
    """The (B, T) mask as int64, None for no bytes; raises MalformedMessage where the length is another."""
    if not data:
        return None
    if len(data) != mask_bytes(batch, tokens):
        raise MalformedMessage(f"a mask of {len(data)} bytes for {batch} rows of {tokens} tokens")
    raw = torch.frombuffer(bytearray(data), dtype=torch.uint8).to(device)
    return unpack_bits(raw.reshape(1, -1), batch * tokens).reshape(batch, tokens).to(torch.int64)


def pack_bits(bits: torch.Tensor) -> torch.Tensor:
    """(rows, n) booleans as (rows, n / 8) bytes, the first bit the lowest."""
    padded = torch.nn.functional.pad(bits.to(torch.uint8), (0, -bits.shape[1] % 8))
    weights = torch.tensor(_BITS, dtype=torch.uint8, device=bits.device)
    return (padded.reshape(bits.shape[0], -1, 8) * weights).sum(2, dtype=torch.uint8)


def unpack_bits(packed: torch.Tensor, count: int) -> torch.Tensor:
    """(rows, count) booleans of what `pack_bits` gave; raises MalformedMessage where bits are set behind the last."""
    weights = torch.tensor(_BITS, dtype=torch.uint8, device=packed.device)
    bits = (packed.unsqueeze(2) & weights).ne(0).reshape(packed.shape[0], -1)
    if bool(bits[:, count:].any()):
        raise MalformedMessage("bits are set behind the last token")
    return bits[:, :count]
