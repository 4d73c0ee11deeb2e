"""Where a run stands between two rounds, and how it is kept and found again after a crash."""

from dataclasses import dataclass, field
from typing import Any

from fedtune.aggregation import Global
from fedtune.recipe import Recipe
from fedtune.runs.checkpoint import Checkpoint
from fedtune.runs.folder import RunFolder
from fedtune.runs.record import RoundRecord
from fedtune.runs.world import parts_of, world_of
from fedtune.state import State
from server.best import is_better, score_of
from server.under_way import PART, UnderWay, read_under_way


@dataclass(frozen=True, slots=True)
class Position:
    """All that the next round depends on."""

    round: int
    world: Global
    shared: State = field(default_factory=dict)
    best: RoundRecord | None = None
    """The best evaluated round so far."""
    stale: int = 0
    """Evaluations since then."""
    failed: int = 0
    """Rounds in a row that had too few updates."""
    clock_s: float | None = None
    """What the virtual clock says; None where none runs."""
    holders: tuple[str, ...] = ()
    """On a virtual clock: who holds the broadcast factors, and need not wait for them again."""
    under_way: UnderWay = field(default_factory=UnderWay)
    """On a virtual clock: the clients at work in asynchronous rounds."""

    def after(self, record: RoundRecord, world: Global, recipe: Recipe) -> "Position":
        """The position after one more round."""
        better = is_better(record, self.best, recipe.model.task)
        scored = score_of(record) is not None
        return Position(
            round=record.round,
            world=world,
            shared=self.shared,
            best=record.model_copy(update={"best": True}) if better else self.best,
            stale=0 if better else self.stale + scored,
            failed=0 if record.aggregated or not record.round else self.failed + 1,
        )


def keep(folder: RunFolder, position: Position, record: RoundRecord) -> None:
    """Write a finished round and the position after it; a crash between the two does the round again."""
    world = position.world
    extra: dict[str, Any] = {
        "best": position.best.as_json() if position.best else None,
        "stale": position.stale,
        "failed": position.failed,
        "shift_key": world.shift.key,
    }
    if position.clock_s is not None:
        extra["clock_s"] = position.clock_s
        if position.holders:
            extra["holders"] = list(position.holders)
        if position.under_way.flights:
            extra["under_way"] = position.under_way.as_json()
    parts = {**parts_of(world), PART: position.under_way.tensors()}
    checkpoint = Checkpoint(position.round, world.state, position.shared, extra, record.best, parts)
    folder.finish_round(record, checkpoint)


def find(folder: RunFolder) -> Position | None:
    """The position after the last round that was kept whole; None for a run that has not begun."""
    checkpoint = folder.rewind()
    if checkpoint is None:
        return None
    best, flights = checkpoint.extra["best"], checkpoint.extra.get("under_way", ())
    return Position(
        round=checkpoint.round,
        world=world_of(checkpoint),
        shared=checkpoint.shared,
        best=RoundRecord.model_validate(best) if best else None,
        stale=int(checkpoint.extra["stale"]),
        failed=int(checkpoint.extra["failed"]),
        clock_s=checkpoint.extra.get("clock_s"),
        holders=tuple(checkpoint.extra.get("holders", ())),
        under_way=read_under_way(flights, checkpoint.parts.get(PART, {})),
    )
