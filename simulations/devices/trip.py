"""One exchange with one client in virtual time: when its reply arrives, or when it is given up."""

from collections.abc import Callable
from dataclasses import dataclass

from fedtune.recipe import Recipe
from fedtune.recipe.training import TrainingSection
from simulations.devices.availability import Availability
from simulations.devices.device import device_of
from simulations.devices.draws import log_normal
from simulations.devices.failures import Failures

SCORING_SPEED = 3.0
"""How much faster rows are scored than trained on: a forward pass is about a third of a step."""


@dataclass(frozen=True, slots=True)
class Trip:
    """A message on its way; all times are moments on the virtual clock."""

    ready: float
    """When the reply begins to be sent: sent + latency + bytes down / bandwidth + rows / speed."""
    up_s_per_byte: float
    lost: float
    """When the client goes away or dies; infinite where it does neither."""

    def arrival(self, up_bytes: int) -> float:
        """When a reply of so many bytes is whole."""
        return self.ready + up_bytes * self.up_s_per_byte


@dataclass(frozen=True, slots=True)
class Devices:
    """The clients' devices as a recipe draws them."""

    recipe: Recipe
    sizes: Callable[[str], tuple[int, int]]
    """(rows that a client learns from, rows that it holds out)."""
    availability: Availability
    failures: Failures

    def trip(self, client: str, kind: str, round_: int, *, sent: float, down_bytes: int) -> Trip:
        """What a message of `kind` (`train`, `evaluate`, `gradient`) that is sent at `sent` comes to."""
        section, seed = self.recipe.simulation, self.recipe.run.seed
        device = device_of(section, seed, client)
        jitter = log_normal(section.jitter, seed, f"jitter-{kind}", round_=round_, client=client)
        begun = sent + device.latency_s + jitter * (down_bytes / device.down_bytes_per_s)
        ready = begun + jitter * (self._rows(client, kind) / device.rows_per_s)
        phase = self.failures.phase(client, round_) if kind == "train" else None
        dies = {"training": begun, "upload": ready, None: float("inf")}[phase]
        return Trip(ready, jitter / device.up_bytes_per_s, min(dies, self.availability.until(client, sent)))

    def _rows(self, client: str, kind: str) -> float:
        """Rows of work, in rows that are trained on."""
        train, holdout = self.sizes(client)
        if kind == "evaluate":
            return holdout / SCORING_SPEED
        if kind == "gradient":
            return min(train, self.recipe.adapter.init_rows)
        return rows_worked(train, self.recipe.training)


def rows_worked(rows: int, training: TrainingSection) -> int:
    """How many rows a client with `rows` rows passes through the model in a round, each as often as it does.

    No step spans two epochs. Under DP-SGD, whose batches are drawn, their intended size counts.
    """
    if training.steps is None or not rows:
        return training.epochs * rows
    in_a_step = training.batch_size * training.accumulate
    epochs, steps = divmod(training.steps, -(-rows // in_a_step))
    return epochs * rows + min(steps * in_a_step, rows)
