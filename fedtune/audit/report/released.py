"""What left the participants' machines or the coordinator's, and what covers it."""

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Literal

from fedtune.audit.report.facts import Facts

Cover = Literal["noise", "post-processing", "no-private-data", "withheld", "not-covered"]

COVERS: Mapping[Cover, str] = MappingProxyType(
    {
        "noise": "clipped and noised; counted in ε",
        "post-processing": "computed from what is counted already; costs nothing more",
        "no-private-data": "reads no private row",
        "withheld": "not released",
        "not-covered": "released, and not covered by ε",
    }
)

WORDS: Mapping[str, str] = MappingProxyType(
    {
        "start": "What the adapter starts from",
        "states": "The adapter after each round, to every participant",
        "adapter": "The finished adapter",
        "choice": "Which round's adapter is kept as the best",
        "clip": "How many updates were within the clip, by which the clip adapts",
        "losses": "Training losses, step counts and times of each participant",
        "held-out": "Scores on the rows that participants hold out",
        "counts": "Numbers of rows; every participant weighs the same",
        "test-rows": "Scores on the coordinator's own test rows, whose people ε does not hide",
        "traffic": "Who is connected when, and sizes and times of messages",
    }
)


@dataclass(frozen=True, slots=True)
class Released:
    """One kind of thing that was, or was not, released."""

    what: str
    """A key of `WORDS`."""
    times: int
    """How often, so far; 0 where it was withheld."""
    cover: Cover


_STARTS: Mapping[str, Cover] = MappingProxyType({"dp-gradient": "noise", "private-gradient": "not-covered"})
"""What is not here reads no private row."""


def released_of(facts: Facts) -> tuple[Released, ...]:
    """Every kind, in the order of the report."""
    recipe, history = facts.recipe, facts.history
    evaluated = len(history.of("evaluate"))
    noised = recipe.privacy.metrics == "noised"
    rows = [
        Released("start", 1, _STARTS.get(recipe.adapter.init, "no-private-data")),
        Released("states", facts.committed, "noise"),
        Released("adapter", int(history.closed is not None), "post-processing"),
        Released("choice", int(facts.has_test_rows or noised), "post-processing"),
        Released("losses", 0, "withheld"),
        Released("held-out", evaluated if noised else 0, "noise" if noised else "withheld"),
        Released("counts", 0, "withheld"),
    ]
    if recipe.privacy.clip_quantile is not None:
        rows.insert(2, Released("clip", facts.committed, "noise"))
    if facts.has_test_rows:
        rows.append(Released("test-rows", facts.committed, "not-covered"))
    return (*rows, Released("traffic", facts.committed, "not-covered"))
