"""What a mechanism did, as an accountant needs to know it: the vocabulary of plan, ledger, budget and report."""

import math
from collections.abc import Iterable, Mapping
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

Purpose = Literal["train", "init", "metrics", "clip", "release"]
Relation = Literal["add-or-remove-one", "replace-one"]


class Event(BaseModel):
    """`count` times a Gaussian mechanism on a Poisson sample, composed with all others adaptively.

    Guarantees: what it stands for is a function of sensitivity one (in units of `noise_multiplier`) under the relation
    that its plan names, of a sample that holds each unit with probability `sampling_rate`, independently and unknown to
    who sees the result; rate 1 claims no amplification.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    noise_multiplier: float = Field(gt=0)
    """Standard deviation over sensitivity."""
    sampling_rate: float = Field(1.0, gt=0, le=1)
    count: int = Field(1, ge=1)
    purpose: Purpose = "train"

    def times(self, count: int) -> "Event":
        """The same event so many times more."""
        return self.model_copy(update={"count": self.count * count})


def grouped(events: Iterable[Event]) -> tuple[Event, ...]:
    """Equal events as one, in a canonical order: an accountant's cost grows with the different ones alone."""
    counts: dict[tuple[float, float, Purpose], int] = {}
    for event in events:
        key = (event.noise_multiplier, event.sampling_rate, event.purpose)
        counts[key] = counts.get(key, 0) + event.count
    return tuple(
        Event(noise_multiplier=sigma, sampling_rate=rate, count=count, purpose=purpose)
        for (sigma, rate, purpose), count in sorted(counts.items())
    )


def as_json(events: Iterable[Event]) -> list[dict[str, Any]]:
    """JSON values, one object an event."""
    return [event.model_dump(mode="json") for event in events]


def from_json(values: Iterable[Mapping[str, Any]]) -> tuple[Event, ...]:
    """Events from what `as_json` gave; pydantic's ValidationError where a value is not allowed."""
    return tuple(Event.model_validate(dict(value)) for value in values)


def jointly(*noise_multipliers: float) -> float:
    """The noise multiplier of one Gaussian that stands for several released together from the same sample.

    (Σ σᵢ⁻²)^(-1/2): the joint sensitivity of the vector whose parts are each scaled to unit noise.
    """
    return 1 / math.sqrt(sum(sigma**-2 for sigma in noise_multipliers))
