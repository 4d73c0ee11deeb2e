"""Who dies in which round, before training or amid the upload: by the recipe's list, or drawn."""

from collections.abc import Container
from typing import Literal

from fedtune.errors import DataError
from fedtune.recipe.simulation import SimulationSection
from simulations.devices.draws import uniform

Phase = Literal["training", "upload"]


class Failures:
    """The failures of a run; a draw depends on (seed, phase, round, client) alone."""

    def __init__(self, section: SimulationSection, seed: int, names: Container[str]) -> None:
        """Raises DataError where the list names a client that there is not."""
        self._section, self._seed = section, seed
        self._planned = dict(map(_read, section.failures))
        for client, _ in self._planned:
            if client not in names:
                raise DataError(
                    f"simulation.failures names {client!r}, and there is no such client; they are client-0, client-1, …"
                )

    def phase(self, client: str, round_: int) -> Phase | None:
        """When the client dies in a round's training; None where it does not."""
        if planned := self._planned.get((client, round_)):
            return planned
        if self._strikes(self._section.fail_before_training, "training", client, round_):
            return "training"
        return "upload" if self._strikes(self._section.fail_in_upload, "upload", client, round_) else None

    def _strikes(self, probability: float, phase: Phase, client: str, round_: int) -> bool:
        if not probability:
            return False
        return uniform(self._seed, f"fail-{phase}", round_=round_, client=client) < probability


def _read(entry: str) -> tuple[tuple[str, int], Phase]:
    """`"client-7=3:upload"` as (client, round) and phase."""
    client, _, when = entry.partition("=")
    round_, _, phase = when.partition(":")
    return (client, int(round_)), "upload" if phase == "upload" else "training"
