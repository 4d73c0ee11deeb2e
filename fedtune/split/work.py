"""How often a client's rows are passed in a round, phase by phase."""

from dataclasses import dataclass

from fedtune.recipe import Recipe
from fedtune.recipe.split import kept_rows


@dataclass(frozen=True, slots=True)
class Work:
    """Sample passes of one client in one round."""

    rows: int
    """Rows that the client holds."""
    step_rows: int
    """Rows of one optimiser step."""
    local: int
    """Passes from head to tail without the body, with training."""
    scored: int
    """Passes from head to tail that only score the rows."""
    passes: int
    """Passes through the body, with training."""
    federated_passes: int
    """Passes of a federated client without a split."""

    def split_flops(self, forward: int, backward: int) -> int:
        """A round of the client, at so many FLOPs a row."""
        return (self.local + self.passes) * (forward + backward) + self.scored * forward


def work_of(recipe: Recipe, rows: int) -> Work:
    """A round of a client with so many rows: `steps` count, where the recipe gives them, else `epochs`."""
    training, split = recipe.training, recipe.split
    step_rows = training.batch_size * training.accumulate
    kept = kept_rows(rows, split.keep)
    steps = None if training.steps is None else training.steps * step_rows
    return Work(
        rows=rows,
        step_rows=step_rows,
        local=split.local_epochs * rows,
        scored=rows if split.keep < 1 else 0,
        passes=training.epochs * kept if steps is None else steps,
        federated_passes=training.epochs * rows if steps is None else steps,
    )
