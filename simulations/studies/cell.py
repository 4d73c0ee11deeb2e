"""Runs one cell of a study: a simulation in a scratch folder, of which the figures stay."""

import shutil
import statistics
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from fedtune.cli.failures import sentence_of
from fedtune.errors import RunError, TrainingError
from fedtune.recipe import Recipe
from fedtune.recipe.load import parse_recipe
from fedtune.runs.folder import RunFolder
from fedtune.runs.record import RoundRecord, ScoreRecord
from simulations.simulate import simulate
from simulations.studies.outcome import Outcome
from simulations.studies.plan import Cell, Plan
from simulations.studies.rows import POOL, TEST, TUNING

ROWS, SCRATCH = "rows", "scratch"
DIVERGED = (RunError, TrainingError)
"""Errors of a simulation that say something about its learning rate; every other one stops the study."""


class Cells:
    """Answers cells, as a workplace answers tasks: JSON of a cell in, JSON of its outcome out."""

    def __init__(self, plan: Plan, folder: Path) -> None:
        self._plan = plan
        self._folder = folder

    def answer_all(self, jobs: Sequence[tuple[str, bytes]]) -> Iterator[bytes]:
        """The outcomes in order; an error that stops the study is a line of text in place of JSON."""
        for _, raw in jobs:
            try:
                answer = run_cell(self._plan, Cell.model_validate_json(raw), self._folder).model_dump_json()
            except Exception as error:  # a worker that dies of it could not say what it was
                answer = sentence_of(error)
            yield answer.encode()


def run_cell(plan: Plan, cell: Cell, folder: Path) -> Outcome:
    """Simulate one cell on this process and give its figures; raises FedtuneError where no cell could run."""
    scratch = folder / SCRATCH / cell.name
    shutil.rmtree(scratch, ignore_errors=True)
    started = time.monotonic()
    try:
        rounds = RunFolder.open(simulate(recipe_of(plan, cell, folder), workers=1)).rounds()
    except DIVERGED as error:
        return Outcome(cell=cell, failure=str(error), seconds=time.monotonic() - started)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    return outcome_of(cell, rounds, time.monotonic() - started)


def recipe_of(plan: Plan, cell: Cell, folder: Path) -> Recipe:
    """The recipe of a cell, whose rows lie in `folder`; raises RecipeError."""
    contender = plan.contenders[cell.method]
    rows = (folder / ROWS).resolve()
    scored_on = TUNING if cell.stage == "tuning" and plan.tuning_rows else TEST
    overrides = (
        *plan.settings,
        *plan.splits[cell.split],
        f"method={contender.method or cell.method}",
        *contender.settings,
        f"training.lr={cell.lr!r}",
        f"data.source={rows / POOL}",
        f"data.test_source={rows / scored_on}",
        f"adapter.seed={cell.seed}",
        f"run.seed={cell.seed}",
        f"run.folder={folder / SCRATCH / cell.name}",
        "run.name=cell",
    )
    return parse_recipe(plan.base, overrides, name="the study's recipe").recipe


def outcome_of(cell: Cell, rounds: Sequence[RoundRecord], seconds: float) -> Outcome:
    """The figures of a finished run from its records; the first of them is the evaluation of the start."""
    start, end, trained = rounds[0], rounds[-1], rounds[1:]
    asked = [client for record in trained for client in record.clients]
    local = end.federated
    return Outcome(
        cell=cell,
        accuracy=_accuracy(end.central),
        local_accuracy=_accuracy(local),
        local_loss=local.loss if local else None,
        accuracy_before=_accuracy(start.central),
        curve=tuple((r.round, r.central.accuracy) for r in trained if r.central),
        product_errors=tuple(r.product_error for r in trained if r.product_error is not None),
        bytes_up=statistics.fmean(client.bytes_up for client in asked),
        bytes_down=statistics.fmean(client.bytes_down for client in asked),
        body_up=statistics.fmean(client.body_up for client in asked),
        body_down=statistics.fmean(client.body_down for client in asked),
        left_out=sum(client.outcome != "ok" for client in asked),
        seconds=seconds,
    )


def _accuracy(score: ScoreRecord | None) -> float | None:
    return score.accuracy if score else None
