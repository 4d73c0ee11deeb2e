"""What a run came to, in a dozen numbers: for the end of a run, its report and its tests."""

import math
import statistics
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from fedtune.runs.folder import RunFolder
from fedtune.runs.record import ClientRecord, RoundRecord, ScoreRecord

Where = Literal["central", "federated"]


@dataclass(frozen=True, slots=True)
class Spread:
    """A quantity over clients."""

    median: float
    mean: float
    largest: float


@dataclass(frozen=True, slots=True)
class VirtualSummary:
    """A run on the virtual clock of simulated devices, in virtual seconds."""

    clock_s: float
    """What the clock said at the end."""
    round_s: float
    """The median round of training; 0 without any."""
    best_s: float | None
    """When the best score was there; None where that is the initial state's, or nothing was evaluated."""


@dataclass(frozen=True, slots=True)
class Summary:
    """A run in numbers; scores are None where nothing was evaluated."""

    name: str
    status: str
    task: str
    where: Where | None
    """Which evaluation the scores are of: the central test set where there is one."""
    before: ScoreRecord | None
    """The initial state's."""
    after: ScoreRecord | None
    """The last evaluated state's."""
    best: ScoreRecord | None
    best_round: int | None
    rounds: int
    """Rounds of training that were recorded."""
    rounds_without_change: int
    """Rounds with too few good updates."""
    hides_clients: bool
    """Is it kept back who was asked, with all that would tell how many? Then the figures below are 0."""
    clients: int
    """Distinct clients that were asked at least once."""
    seconds: float
    """Wall-clock seconds over all rounds, evaluation included."""
    bytes_up: int
    bytes_down: int
    up_per_client: Spread
    """Bytes that a client sent over the whole run."""
    down_per_client: Spread
    outcomes: Mapping[str, int]
    """How often each outcome came, `ok` included."""
    virtual: VirtualSummary | None = None
    """None where no virtual clock ran."""


def summarise(folder: RunFolder) -> Summary:
    """Sum up a run folder, finished or not; raises RunError where its rounds are damaged."""
    return summarise_rounds(folder.rounds(), name=folder.info.name, status=folder.status, task=folder.recipe.model.task)


def summarise_rounds(records: Sequence[RoundRecord], *, name: str, status: str, task: str) -> Summary:
    """Sum up rounds that are in memory."""
    where = evaluated_where(records)
    scores = {r.round: score for r in records if (score := score_of(r, where)) is not None}
    best_round = next((r.round for r in reversed(records) if r.best and r.round in scores), None)
    trained = [r for r in records if r.round > 0]
    asked = [c for r in records for c in r.clients]
    return Summary(
        name=name,
        status=status,
        task=task,
        where=where,
        before=scores.get(0),
        after=scores[max(scores)] if scores else None,
        best=None if best_round is None else scores[best_round],
        best_round=best_round,
        rounds=len(trained),
        rounds_without_change=sum(not r.aggregated for r in trained),
        hides_clients=any(r.hides_clients for r in records),
        clients=len({c.client for c in asked}),
        seconds=sum(r.seconds or 0.0 for r in records),
        bytes_up=sum(r.bytes_up() for r in records),
        bytes_down=sum(r.bytes_down() for r in records),
        up_per_client=_spread({c.client: 0 for c in asked}, asked, "sent"),
        down_per_client=_spread({c.client: 0 for c in asked}, asked, "received"),
        outcomes=dict(Counter(c.outcome for c in asked).most_common()),
        virtual=_virtual(records, best_round),
    )


def evaluated_where(records: Sequence[RoundRecord]) -> Where | None:
    """`central` where any round was evaluated centrally, else `federated`, else None."""
    if any(r.central for r in records):
        return "central"
    return "federated" if any(r.federated for r in records) else None


def score_of(record: RoundRecord, where: Where | None) -> ScoreRecord | None:
    """A round's score of one kind, None where it was not evaluated."""
    return {"central": record.central, "federated": record.federated, None: None}[where]


def perplexity(loss: float) -> float:
    """e to the mean loss per token; infinite where that is beyond a float."""
    try:
        return math.exp(loss)
    except OverflowError:
        return math.inf


def _virtual(records: Sequence[RoundRecord], best_round: int | None) -> VirtualSummary | None:
    clocks = {r.round: r.virtual for r in records if r.virtual is not None}
    if not clocks:
        return None
    rounds = [clock.seconds for round_, clock in clocks.items() if round_ > 0]
    best = clocks.get(best_round) if best_round else None
    return VirtualSummary(
        clock_s=clocks[max(clocks)].clock_s,
        round_s=statistics.median(rounds) if rounds else 0.0,
        best_s=best.clock_s if best else None,
    )


def _spread(totals: dict[str, int], asked: Sequence[ClientRecord], field: Literal["sent", "received"]) -> Spread:
    for client in asked:
        totals[client.client] += getattr(client, field)
    values = sorted(totals.values())
    if not values:
        return Spread(0.0, 0.0, 0.0)
    return Spread(statistics.median(values), statistics.fmean(values), float(values[-1]))
