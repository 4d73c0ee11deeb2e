"""A sum of floating-point tensors that does not depend on the order of its terms, in memory for two tensors.

Each term x is rounded to two fixed grids, x ≈ h + l with h a multiple of 2⁻¹⁰ and l of 2⁻⁵⁰. Multiples of one
grid add without rounding in float64 as long as the sums stay below 2⁵³ grid steps, and an exact addition is
associative: clients may arrive in any order. The error of a term is at most 2⁻⁵¹, far below an fp32 delta's own.
"""

import torch

from fedtune.errors import WeightOutOfRange

_HIGH_GRID, _LOW_GRID = 2.0**-10, 2.0**-50
_ROUND = 1.5 * 2.0**52
_MAX_ABS = 2.0**28
MAX_TERMS = 2**14


class ExactSum:
    """The running sum of equally shaped tensors.

    Guarantees: `value()` depends on the multiset of terms alone, for up to 16,384 terms below 2²⁸ in magnitude.
    """

    def __init__(self, shape: tuple[int, ...]) -> None:
        self._high = torch.zeros(shape, dtype=torch.float64)
        self._low = torch.zeros(shape, dtype=torch.float64)
        self._terms = 0

    def check(self, tensor: torch.Tensor, factor: float = 1.0) -> None:
        """Raise WeightOutOfRange where `add` could not hold this term, or one term more."""
        largest = torch.linalg.vector_norm(tensor, ord=torch.inf).item() * abs(factor) if tensor.numel() else 0.0
        if not largest < _MAX_ABS:
            raise WeightOutOfRange(f"weight times update reaches {largest:.3g}, more than the sum can hold (2^28)")
        if self._terms >= MAX_TERMS:
            raise WeightOutOfRange(f"a round takes at most {MAX_TERMS} updates")

    def add(self, tensor: torch.Tensor, factor: float = 1.0) -> None:
        """Add `factor * tensor`, a term that has passed `check`."""
        term = tensor.to(torch.float64) * factor
        high = _on_grid(term, _HIGH_GRID)
        self._high += high
        self._low += _on_grid(term.sub_(high), _LOW_GRID)
        self._terms += 1

    @property
    def bytes(self) -> int:
        """Memory of the sum."""
        return self._high.nbytes + self._low.nbytes

    def value(self) -> torch.Tensor:
        """The sum, float64."""
        return self._high + self._low


def _on_grid(x: torch.Tensor, grid: float) -> torch.Tensor:
    """The nearest multiple of `grid` (a power of two): adding and subtracting 1.5·2⁵² grid steps rounds there."""
    shift = _ROUND * grid
    return (x + shift).sub_(shift)
