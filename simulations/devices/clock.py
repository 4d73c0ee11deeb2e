"""The virtual clock of simulated devices."""

from dataclasses import dataclass


@dataclass(slots=True)
class VirtualClock:
    """Seconds since the run began; only what a run waits for moves it."""

    now: float = 0.0

    def advance_to(self, moment: float) -> None:
        """Go on to `moment`; never back."""
        self.now = max(self.now, moment)
