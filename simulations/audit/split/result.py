"""`split-audit.json`: how much of private rows was read off what leaves the client, at every depth, beside a guess."""

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from fedtune.runs.atomic import storage_errors, write_atomically
from fedtune.split.release import Release, as_json

FORMAT = "fedtune split audit 1"
SURE = 3.0
"""Standard errors above a guess from which an attack is called one that recovers something."""


@dataclass(frozen=True, slots=True)
class Leak:
    """One attack at one depth."""

    head_layers: int
    attack: str
    recovered: float
    """Texts: the share of tokens. Images: the share of variance, 0 for the mean public image."""
    error: float
    """Its standard error over rows."""
    guess: float
    """The same of the baseline, which sees no activations."""
    psnr: float | None = None
    """Of images, in decibels; a mean over them."""
    ssim: float | None = None

    @property
    def recovers(self) -> bool:
        """Is it surely better than the guess?"""
        return self.recovered > self.guess + SURE * self.error


@dataclass(frozen=True, slots=True)
class LabelLeak:
    """What the gradients at the body's output say of the labels: shares of rows that are named right."""

    head_layers: int
    tail_layers: int
    matched: float
    """Each label's gradient tried through the tail that the coordinator knows, in a client's first step."""
    matched_later: float
    """The same at the end of a local epoch, when the client's tail is no longer the one that was given out."""
    clustered: float
    """Groups of like gradients with the best names; nothing of the tail is known."""
    clustered_later: float
    """The same at the end of a local epoch."""
    clustered_by_chance: float
    """The same of groups that have nothing to do with the labels."""
    most_frequent: float
    """The guess: every row has the most frequent label."""
    predicted: float
    """What the model itself says of the rows, without a gradient."""


@dataclass(frozen=True, slots=True)
class SplitAudit:
    """Everything that was found."""

    model: str
    source: str
    task: str
    measure: Literal["tokens", "variance"]
    layers: int
    private_rows: int
    public_rows: int
    public_source: str
    activations: str
    noise_multiplier: float
    clip: float
    leaks: tuple[Leak, ...]
    labels: LabelLeak | None
    """None where no gradient leaves the client, or where labels are the text itself."""
    release: Release | None
    """What the noise promises, whatever the attack; None without noise."""
    recipe_fingerprint: str
    seconds: float
    format: str = FORMAT

    def strongest(self, depth: int) -> Leak:
        """The attack that recovers most behind so many layers."""
        return max((leak for leak in self.leaks if leak.head_layers == depth), key=lambda leak: leak.recovered)

    def write(self, path: Path) -> None:
        """Write the JSON; raises RunError where the disk does not take it."""
        with storage_errors(path):
            write_atomically(path, json.dumps(self.as_json(), indent=2).encode())

    def as_json(self) -> dict[str, Any]:
        """JSON values, by field; of the release what it promises."""
        return {**asdict(self), "release": self.release and as_json(self.release)}
