"""The local step of a split model: SFPrompt's phases (arXiv 2407.17533, algorithm 1), each on its own switch."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import TypeVar

from fedtune.adapters.shift import NO_SHIFT, Shift
from fedtune.data.base import Rows
from fedtune.seeds import derive_seed
from fedtune.split.base import Body, OpenBody, Share
from fedtune.split.counted import BODY_DOWN, BODY_UP, CountedBody
from fedtune.split.pipeline import Pipeline, parts_of
from fedtune.split.score import KeptRows, hardest, score_each
from fedtune.state import State
from fedtune.training.base import NOBODY, Assignment, LocalResult, Score
from fedtune.training.evaluate import score_rows
from fedtune.training.loop import train_client
from fedtune.training.order import count_steps
from fedtune.training.resident import Resident

T = TypeVar("T")


class SplitStep:
    """Trains and evaluates clients that hold head and tail, with a body from `open_body`.

    A client's round: `split.local_epochs` passes over its rows from head to tail without the body; the share
    `split.keep` of them that this short circuit gets most wrong; training through the body on those, as `training`
    says. Guarantees: as `SequentialStep`; only the last phase opens a body, and it is closed whatever happens.
    """

    def __init__(self, resident: Resident, open_body: OpenBody) -> None:
        parts_of(resident)
        self._resident, self._open = resident, open_body

    def train(self, cohort: Sequence[Assignment]) -> Iterator[LocalResult]:
        """Train when asked for the next result; an error is raised at its client, and the next can be asked for."""
        return map(self._train, cohort)

    def evaluate(self, state: State, rows: Rows, shift: Shift = NO_SHIFT, share: Share = NOBODY, /) -> Score:
        """Score a state on rows, through the body; `share` says whose rows they are."""
        if not len(rows):
            return score_rows(self._resident, state, rows, shift)
        return self._with_body(
            share,
            lambda body: score_rows(
                self._resident, state, rows, shift, outputs=Pipeline(self._resident, body, seed=0).outputs
            ),
        )

    def _train(self, assignment: Assignment) -> LocalResult:
        alone = self._alone(assignment)
        state = alone.state if alone else assignment.state
        rows = self._kept(state, assignment.rows)
        result = self._through_body(replace(assignment, state=state, rows=rows))
        return _together(assignment, alone, result, kept=len(rows))

    def _alone(self, assignment: Assignment) -> LocalResult | None:
        """Training from head to tail, which sends nothing; None where the recipe has none."""
        recipe = self._resident.recipe
        if not recipe.split.local_epochs:
            return None
        training = recipe.training.model_copy(update={"epochs": recipe.split.local_epochs, "steps": None})
        short = replace(self._resident, recipe=recipe.model_copy(update={"training": training}))
        return train_client(short, replace(assignment, seed=derive_seed(assignment.seed, "alone")))

    def _kept(self, state: State, rows: Rows) -> Rows:
        keep = self._resident.recipe.split.keep
        return rows if keep == 1 else KeptRows(rows, hardest(score_each(self._resident, state, rows), keep))

    def _through_body(self, assignment: Assignment) -> LocalResult:
        if not count_steps(len(assignment.rows), self._resident.recipe.training):
            return train_client(self._resident, assignment)  # takes no step, and so needs no body
        seed = derive_seed(assignment.seed, "body")
        return self._with_body(
            Share(assignment.run, assignment.round, assignment.client),
            lambda body: self._counted(assignment, CountedBody(body, self._resident.recipe.split), seed),
        )

    def _counted(self, assignment: Assignment, body: CountedBody, seed: int) -> LocalResult:
        def stepped(factor: float, last: bool) -> None:
            if body.trains:
                body.step(factor, last=last)

        result = train_client(self._resident, assignment, Pipeline(self._resident, body, seed).accumulate, stepped)
        crossed = {BODY_UP: float(body.crossed.up), BODY_DOWN: float(body.crossed.down)}
        return replace(result, metrics={**result.metrics, **crossed})

    def _with_body(self, share: Share, use: Callable[[Body], T]) -> T:
        body = self._open(share)
        try:
            return use(body)
        finally:
            body.close()


def _together(assignment: Assignment, alone: LocalResult | None, last: LocalResult, *, kept: int) -> LocalResult:
    """One result of both phases; the client's weight is its rows, whatever was kept of them."""
    first = alone or LocalResult(assignment.client, {}, 0)
    rates = {name: rate + first.rates.get(name, 0.0) for name, rate in last.rates.items()}
    metrics = {**first.metrics, **last.metrics, "kept": float(kept)}
    for total in ("steps", "seconds"):
        metrics[total] = first.metrics.get(total, 0.0) + last.metrics.get(total, 0.0)
    if "loss" in first.metrics:
        metrics["alone_loss"] = first.metrics["loss"]
    return replace(last, examples=len(assignment.rows), rates=rates, metrics=metrics)
