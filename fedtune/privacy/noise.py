"""Gaussian noise for privacy, from a cryptographic generator and never from a seed that a recipe tells."""

import math
from collections.abc import Mapping, Sequence
from typing import Protocol

import torch

from fedtune.errors import PrivacyError
from fedtune.privacy.keystream import BITS, Keystream
from fedtune.state import State

_DRAWS = 4
"""Normal numbers in the sum that makes up one."""


class NoiseSource(Protocol):
    """Where noise comes from: a cryptographic generator in a run, numbers of a test's choice in a test."""

    def normal(self, shape: Sequence[int]) -> torch.Tensor:
        """Independent standard normal numbers of this shape: float64, on the CPU, never the same ones again."""
        ...


class SecureNoise:
    """Normal numbers from AES-256 in counter mode under a key of the operating system.

    Floating point: the doubles that an ordinary normal sampler can give are so few near each value that the low bits of
    a noised number may tell what it was before (arXiv 2112.05307). So each number is the sum of four draws, halved,
    which takes about 2¹⁵⁹ steps to search through instead of 2⁵³ (arXiv 2107.10138, section 5.1; Opacus' secure mode
    does the same), and `add_noise` adds in double precision and rounds once to fp32, which leaves 24 of 53 bits. What
    remains is the distance of doubles from real numbers, which no accountant of this project counts.

    Guarantees: numbers are independent of each other, of those of all other objects, and of those of a process that
    this one was forked from or forks; each is at most 17.2 in magnitude, which a normal number exceeds with
    probability 10⁻⁶⁵.
    """

    def __init__(self) -> None:
        self._stream = Keystream()

    def normal(self, shape: Sequence[int]) -> torch.Tensor:
        """Independent standard normal numbers of this shape: float64, on the CPU."""
        count = math.prod(shape)
        total = torch.zeros(count, dtype=torch.float64)
        for _ in range(_DRAWS):
            total += self._draw(count)
        return total.div_(math.sqrt(_DRAWS)).reshape(tuple(shape))

    def _draw(self, count: int) -> torch.Tensor:
        """Box and Muller's pairs: a squared radius that is exponential, and an angle that is uniform."""
        pairs = -(-count // 2)
        integers = self._stream.integers(2 * pairs).double()
        # One more, so that the logarithm is of a number in (0, 1].
        radius = integers[:pairs].add_(1).mul_(2.0**-BITS).log_().mul_(-2).sqrt_()
        angle = integers[pairs:].mul_(2 * math.pi * 2.0**-BITS)
        return torch.cat((radius * angle.cos(), radius * angle.sin()))[:count]


def add_noise(tensors: Mapping[str, torch.Tensor], scale: float, source: NoiseSource) -> State:
    """Each tensor with independent normal noise of standard deviation `scale` on every number: fp32, CPU.

    The sum is taken in double precision and rounded once. One draw for all tensors, by sorted name: an adapter is
    hundreds of small ones. Raises PrivacyError where `scale` is negative or not finite.
    """
    if not 0 <= scale < math.inf:
        raise PrivacyError(f"the standard deviation of noise must be 0 or above and finite, got {scale:g}")
    names = sorted(tensors)
    sizes = [tensors[name].numel() for name in names]
    parts = torch.split(source.normal((sum(sizes),)) * scale, sizes)
    return {
        name: (tensors[name].detach().cpu().double() + part.view(tensors[name].shape)).float()
        for name, part in zip(names, parts, strict=True)
    }
