"""Where a probed private step has its chance from: coins that are watched, rows that are given, no noise."""

from collections import deque
from collections.abc import Sequence

import torch

from fedtune.privacy.rows import RowSampler


class WatchedRows:
    """A sampler, with what it gave last kept: one sample a client, in their order."""

    def __init__(self, coins: RowSampler, clients: int) -> None:
        self._coins = coins
        self.drawn: deque[list[int]] = deque(maxlen=clients)

    def draw(self, count: int, rate: float) -> list[int]:
        """Those that are in the next step."""
        self.drawn.append(self._coins.draw(count, rate))
        return self.drawn[-1]


class GivenRows:
    """Samples that are known: one a client, in their order, the same in every step until others are given."""

    def __init__(self) -> None:
        self._samples: Sequence[Sequence[int]] = ()
        self._asked = 0

    def give(self, samples: Sequence[Sequence[int]]) -> None:
        """Each client's sample from here on."""
        self._samples, self._asked = samples, 0

    def draw(self, count: int, rate: float) -> list[int]:
        """The next client's."""
        self._asked += 1
        return list(self._samples[(self._asked - 1) % len(self._samples)])


class Silence:
    """No noise, to see what is under it."""

    def normal(self, shape: Sequence[int]) -> torch.Tensor:
        """Zeros."""
        return torch.zeros(tuple(shape), dtype=torch.float64)
