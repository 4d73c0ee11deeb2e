"""One plane of bits by ANS, eight bits a symbol: independent bits that are ones as often as the plane counts them.

Coding whole bytes takes an eighth of the steps and loses nothing: the 256 weights are products of the two of a bit.
"""

from dataclasses import dataclass
from math import log2

import numpy as np

from fedtune.compression.ans import Model, model_of
from fedtune.compression.planes import BITS_SET, plane_bytes

_WORTH_BITS = 64
"""What coding must save to be chosen over the packed plane: the coder's last state may take as much."""


@dataclass(frozen=True, slots=True)
class PlaneCode:
    """How a plane of `bits` bits, `ones` of them set, is sent."""

    bits: int
    ones: int

    @property
    def constant(self) -> bool:
        """Are all bits alike? Then nothing is sent."""
        return self.ones in {0, self.bits}

    def pays(self) -> bool:
        """Is the code shorter than the packed plane? The encoder's choice; the stream says which it is."""
        if self.constant:
            return False
        share = self.ones / self.bits
        entropy = -share * log2(share) - (1 - share) * log2(1 - share)
        return self.bits * entropy + _WORTH_BITS < 8 * plane_bytes(self.bits)

    def model(self) -> Model:
        """The weights of the 256 bytes, from integers alone; the plane is not constant."""
        zeros = self.bits - self.ones
        share = [self.ones**ones * zeros ** (8 - ones) for ones in range(9)]
        return model_of([share[ones] for ones in BITS_SET])

    def cost_range(self) -> tuple[float, float]:
        """The bits that the code takes at least and at most, however the ones lie.

        A byte with c ones costs between c₀ + c·least and c₀ + c·most, where c₀ is the cost of the byte of zeros.
        """
        costs = self.model().costs()
        slopes = (costs[1:] - costs[0]) / BITS_SET[1:]
        whole = plane_bytes(self.bits) * float(costs[0])
        return whole + self.ones * float(np.min(slopes)), whole + self.ones * float(np.max(slopes))
