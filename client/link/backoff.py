"""How long to wait before the next attempt: longer each time, up to a cap, and never in step with other clients."""

import random


class Backoff:
    """Delays in seconds, each drawn between half and all of a bound that doubles up to `cap_s`.

    Args:
        first_s: the first bound.
        cap_s: the last bound.
        source: random numbers; the default differs between processes.
    """

    def __init__(self, first_s: float = 0.2, cap_s: float = 15.0, source: random.Random | None = None) -> None:
        self._first_s = first_s
        self._cap_s = cap_s
        self._source = source or random.SystemRandom()
        self._bound_s = first_s

    def next_s(self) -> float:
        """The delay before the next attempt."""
        bound_s = self._bound_s
        self._bound_s = min(self._cap_s, bound_s * 2)
        return bound_s * self._source.uniform(0.5, 1.0)

    def reset(self) -> None:
        """An attempt succeeded: begin anew."""
        self._bound_s = self._first_s
