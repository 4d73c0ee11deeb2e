"""The sum of clipped updates: what client-level privacy adds its noise to, with the sensitivity that it has."""

import math
from collections.abc import Mapping

import torch

from fedtune.aggregation.exact_sum import ExactSum
from fedtune.aggregation.validate import norm_of
from fedtune.errors import MismatchedUpdate, NonFiniteUpdate, PrivacyError
from fedtune.privacy.clipping import ROOM
from fedtune.state import Shapes, State, shapes_of


class ClippedSum:
    """Σ δₖ·min(1, clip/‖δₖ‖) over whole updates, each one vector of all its tensors.

    Guarantees: adding or removing one update moves `value()` by at most `sensitivity` in Euclidean norm, roundings
    included (up to 10⁹ numbers and 16,384 updates); `value()` depends on the updates and not on their order; what
    `add` refuses has changed nothing; memory for two float64 copies of one update, whatever their number.
    """

    def __init__(self, shapes: Shapes, clip: float) -> None:
        if not 0 < clip < math.inf:
            raise PrivacyError(f"clip must be above 0 and finite, got {clip:g}")
        self._shapes = dict(sorted(shapes.items()))
        self._clip = clip
        # In units of the clip, so that the grids of the exact sum are fine enough whatever it is.
        self._sums = {name: ExactSum(shape) for name, shape in self._shapes.items()}

    @property
    def sensitivity(self) -> float:
        """How far one update can move the sum: the clip."""
        return self._clip

    def add(self, delta: Mapping[str, torch.Tensor]) -> bool:
        """Add one update, clipped in float64; was it within the clip?

        Raises MismatchedUpdate, NonFiniteUpdate or WeightOutOfRange, and adds nothing, where it cannot be summed.
        """
        if shapes_of(delta) != self._shapes:
            raise MismatchedUpdate("the update's tensors are not those that are summed")
        norm = norm_of(delta)
        if not math.isfinite(norm):
            raise NonFiniteUpdate("the update holds NaN or infinity")
        factor = ROOM / max(norm, self._clip)
        for name, total in self._sums.items():
            total.check(delta[name], factor)
        for name, total in self._sums.items():
            total.add(delta[name], factor)
        return norm <= self._clip

    def value(self) -> State:
        """The sum by tensor, float64; zeros where nothing was added."""
        return {name: total.value() * self._clip for name, total in self._sums.items()}
