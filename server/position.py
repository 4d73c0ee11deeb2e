"""Where a run stands between two rounds, and how it is kept and found again after a crash."""

from dataclasses import dataclass, field

from fedtune.recipe import Recipe
from fedtune.runs.checkpoint import Checkpoint
from fedtune.runs.folder import RunFolder
from fedtune.runs.record import RoundRecord
from fedtune.state import State
from server.best import is_better, score_of


@dataclass(frozen=True, slots=True)
class Position:
    """All that the next round depends on."""

    round: int
    state: State
    shared: State = field(default_factory=dict)
    best: RoundRecord | None = None
    """The best evaluated round so far."""
    stale: int = 0
    """Evaluations since then."""
    failed: int = 0
    """Rounds in a row that had too few updates."""

    def after(self, record: RoundRecord, state: State, recipe: Recipe) -> "Position":
        """The position after one more round."""
        better = is_better(record, self.best, recipe.model.task)
        scored = score_of(record) is not None
        return Position(
            round=record.round,
            state=state,
            shared=self.shared,
            best=record.model_copy(update={"best": True}) if better else self.best,
            stale=0 if better else self.stale + scored,
            failed=0 if record.aggregated or not record.round else self.failed + 1,
        )


def keep(folder: RunFolder, position: Position, record: RoundRecord) -> None:
    """Write a round: the checkpoint first, then its line; `find` mends what a crash between the two leaves."""
    extra = {
        "record": record.as_json(),
        "best": position.best.as_json() if position.best else None,
        "stale": position.stale,
        "failed": position.failed,
    }
    checkpoint = Checkpoint(round=position.round, state=position.state, shared=position.shared, extra=extra)
    folder.save_checkpoint(checkpoint, best=record.best)
    folder.append(record)


def find(folder: RunFolder) -> Position | None:
    """The position after the last round that was kept; None for a run that has not begun."""
    checkpoint = folder.load_checkpoint("latest")
    if checkpoint is None:
        return None
    folder.truncate_after(checkpoint.round)
    written = folder.rounds()
    if not written or written[-1].round < checkpoint.round:
        folder.append(RoundRecord.model_validate(checkpoint.extra["record"]))
    best = checkpoint.extra["best"]
    return Position(
        round=checkpoint.round,
        state=checkpoint.state,
        shared=checkpoint.shared,
        best=RoundRecord.model_validate(best) if best else None,
        stale=int(checkpoint.extra["stale"]),
        failed=int(checkpoint.extra["failed"]),
    )
