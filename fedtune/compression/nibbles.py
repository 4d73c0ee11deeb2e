"""Two numbers of four bits to a byte."""

import torch

from fedtune.errors import MalformedMessage


def bytes_for(count: int) -> int:
    """The bytes that `count` numbers take."""
    return -(-count // 2)


def pack(numbers: torch.Tensor) -> torch.Tensor:
    """Bytes (⌈n/2⌉,) of numbers 0 to 15 (n,), uint8: the first in the upper half; a lower half left over is zero."""
    even = torch.zeros(2 * bytes_for(len(numbers)), dtype=torch.uint8)
    even[: len(numbers)] = numbers
    return even[0::2] * 16 + even[1::2]


def unpack(packed: torch.Tensor, count: int) -> torch.Tensor:
    """The `count` numbers (n,), uint8; raises MalformedMessage where what is left over is not zero."""
    numbers = torch.stack([packed // 16, packed % 16], dim=1).reshape(-1)
    if numbers[count:].any():
        raise MalformedMessage("the update has numbers of four bits beyond its last one")
    return numbers[:count]
