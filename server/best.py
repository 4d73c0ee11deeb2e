"""Which of two evaluated rounds is the better one."""

from fedtune.recipe.model import Task
from fedtune.runs.record import RoundRecord, ScoreRecord


def score_of(record: RoundRecord) -> ScoreRecord | None:
    """The score that decides: the central one, else the federated one."""
    return record.central or record.federated


def is_better(new: RoundRecord, best: RoundRecord | None, task: Task) -> bool:
    """Is `new` the best so far? Accuracy decides a classification and loss a tie; for `causal-lm` loss alone.

    A round without a score never is; a score that is NaN never is.
    """
    score = score_of(new)
    if score is None or score.loss != score.loss:
        return False
    old = score_of(best) if best else None
    return old is None or _key(score, task) > _key(old, task)


def _key(score: ScoreRecord, task: Task) -> tuple[float, float]:
    return (0.0 if task == "causal-lm" else score.accuracy, -score.loss)
