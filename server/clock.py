"""The clock that a run goes by: this machine's, or the virtual one of a grid that has one."""

import time
from dataclasses import dataclass
from typing import Protocol

from flwr.serverapp import Grid

from fedtune.runs.record import VirtualRecord


class VirtualTime(Protocol):
    """A grid's own clock: seconds since its run began."""

    now: float


@dataclass(frozen=True, slots=True)
class Moment:
    """When something began."""

    wall: float
    virtual: float | None


class RunClock:
    """Deadlines are kept by `now`; what is recorded as virtual is None unless the grid has a `clock`."""

    def __init__(self, grid: Grid) -> None:
        self._virtual: VirtualTime | None = getattr(grid, "clock", None)
        self.endless = self._virtual is None and getattr(grid, "virtual", False)
        """Does the grid work without any time, so that no deadline ever passes?"""

    @property
    def virtual(self) -> float | None:
        """The virtual clock, where there is one."""
        return self._virtual.now if self._virtual else None

    def now(self) -> float:
        """Seconds, on whichever clock it is."""
        return self._virtual.now if self._virtual else time.monotonic()

    def go_on_from(self, virtual: float) -> None:
        """Set a virtual clock to where a run that is taken up again stood."""
        if self._virtual:
            self._virtual.now = virtual

    def moment(self) -> Moment:
        """This moment, on both clocks."""
        return Moment(time.monotonic(), self.virtual)

    def since(self, began: Moment, online: int) -> VirtualRecord | None:
        """What virtual time a round took that drew among `online` clients; None without a virtual clock."""
        if self._virtual is None or began.virtual is None:
            return None
        now = self._virtual.now
        return VirtualRecord(seconds=now - began.virtual, clock_s=now, online=online)
