"""When clients are online: always, by a sine of the day, or as a trace says."""

import math
from collections.abc import Iterator, Sequence
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from simulations.devices.draws import uniform

Bools = NDArray[np.bool_]
LOOKS_A_DAY = 1440
"""How often a run that waits for clients looks who has come, in a day of `Diurnal`."""


class Availability(Protocol):
    """Who is online at a moment of virtual time, and until when."""

    def online(self, now: float) -> Bools:
        """(N,): whether each client is online, in the order of the names that this was made for."""
        ...

    def until(self, client: str, now: float) -> float:
        """When a client that is online at `now` goes away; infinite where it never does."""
        ...

    def looks(self, now: float) -> Iterator[float]:
        """Moments after `now` at which more clients may be online, ascending; ends where waiting is of no use."""
        ...


class Always:
    """Every client is always there."""

    def __init__(self, count: int) -> None:
        self._online = np.ones(count, dtype=np.bool_)

    def online(self, now: float) -> Bools:
        """All of them."""
        return self._online

    def until(self, client: str, now: float) -> float:
        """Never."""
        return math.inf

    def looks(self, now: float) -> Iterator[float]:
        """None: nobody else comes."""
        return iter(())


class Diurnal:
    """Online while sin(2π(t/day + φ)) ≥ cos(π·share), which is `share` of each day.

    φ is drawn from (seed, client): uniform over `phase_spread` of a day around 0, which has its noon at a quarter day.
    """

    def __init__(self, names: Sequence[str], *, share: float, day_s: float, phase_spread: float, seed: int) -> None:
        self._share, self._day_s, self._phase_spread, self._seed = share, day_s, phase_spread, seed
        self._phases = np.fromiter(map(self._phase, names), dtype=np.float64, count=len(names))

    def online(self, now: float) -> Bools:
        """Who is past its morning by less than its share of a day."""
        hours: Bools = (now / self._day_s + self._phases) % 1.0 < self._share
        return hours

    def until(self, client: str, now: float) -> float:
        """The end of the client's day."""
        if self._share >= 1:
            return math.inf
        return now + max(0.0, self._share - (now / self._day_s + self._phase(client)) % 1.0) * self._day_s

    def looks(self, now: float) -> Iterator[float]:
        """A day, minute by minute (of a day of 24 hours)."""
        step = self._day_s / LOOKS_A_DAY
        first = math.floor(now / step) + 1
        return (position * step for position in range(first, first + LOOKS_A_DAY + 1))

    def _phase(self, client: str) -> float:
        """φ, counted from the morning: the moment at which the sine rises to its threshold."""
        drawn = self._phase_spread * (uniform(self._seed, "phase", client=client) - 0.5)
        return (drawn - 0.25 + self._share / 2) % 1.0


class Traced:
    """Online in the intervals of a trace, each from its start to before its end."""

    def __init__(self, names: Sequence[str], intervals: dict[str, list[tuple[float, float]]]) -> None:
        """`intervals`: of each client in it, ascending and without overlaps; who is not in it is never online."""
        self._intervals, self._count = intervals, len(names)
        flat = [(position, start, end) for position, name in enumerate(names) for start, end in intervals.get(name, ())]
        self._clients = np.array([position for position, _, _ in flat], dtype=np.int64)
        self._starts = np.array([start for _, start, _ in flat], dtype=np.float64)
        self._ends = np.array([end for _, _, end in flat], dtype=np.float64)

    def online(self, now: float) -> Bools:
        """Whose interval holds `now`."""
        there = np.zeros(self._count, dtype=np.bool_)
        there[self._clients[(self._starts <= now) & (now < self._ends)]] = True
        return there

    def until(self, client: str, now: float) -> float:
        """The end of the interval that holds `now`; `now` where none does."""
        ends = (end for start, end in self._intervals.get(client, ()) if start <= now < end)
        return next(ends, now)

    def looks(self, now: float) -> Iterator[float]:
        """Every later start."""
        return iter(np.unique(self._starts[self._starts > now]).tolist())
