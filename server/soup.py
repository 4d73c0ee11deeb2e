"""The adapter at the end of a run: the best checkpoint's, or a soup of those that were kept (arXiv 2203.05482)."""

from collections.abc import Callable

from fedtune.aggregation import Frame, Global
from fedtune.aggregation.soup import greedy, uniform
from fedtune.errors import RunError
from fedtune.recipe import Recipe
from fedtune.runs.checkpoint import Checkpoint
from fedtune.runs.folder import RunFolder
from fedtune.runs.record import ScoreRecord
from fedtune.runs.world import world_of

Score = Callable[[Global], ScoreRecord | None]
"""The central score of what a run knew; None where it has no test rows."""


def soup(folder: RunFolder, frame: Frame, score: Score) -> Global:
    """The soup of the run's kept checkpoints that `run.soup` asks for; raises RunError where there are none.

    `greedy` takes the checkpoints from the best to the worst, and keeps one where the soup's score does not fall.
    """
    rounds = [round_ for round_ in folder.checkpoints.rounds() if round_ > 0]
    if not rounds:
        raise RunError(f"{folder.path} has no trained checkpoint to make a soup of; run it again")
    worlds = [world_of(folder.checkpoints.load(str(round_))) for round_ in rounds]
    if folder.recipe.run.soup == "uniform":
        return uniform(worlds, frame)
    value = _value(folder.recipe, score)
    ranked = sorted(worlds, key=value, reverse=True)
    return greedy(ranked, frame, value)


def final_checkpoint(folder: RunFolder) -> Checkpoint:
    """The best evaluated checkpoint, or the last; raises RunError where there is none."""
    checkpoint = folder.checkpoints.best() or folder.checkpoints.latest()
    if checkpoint is None:
        raise RunError(f"{folder.path} has no checkpoint to make an adapter from; run it again")
    return checkpoint


def _value(recipe: Recipe, score: Score) -> Callable[[Global], float]:
    """Accuracy, or for a language model minus the loss; higher is better."""

    def value(world: Global) -> float:
        found = score(world)
        if found is None:
            raise RunError('run.soup = "greedy" scores soups on the coordinator\'s test rows, and the run has none')
        return -found.loss if recipe.model.task == "causal-lm" else found.accuracy

    return value
