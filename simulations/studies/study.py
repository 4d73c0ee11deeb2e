"""Carries a study out: tune, then report, cell by cell on all cores; what is done already is not done again."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path

import torch
from pydantic import ValidationError

from fedtune.errors import RunError
from fedtune.recipe.load import parse_recipe
from simulations.groups import Answers, singly
from simulations.studies.cell import ROWS, Cells
from simulations.studies.choose import choose_rates
from simulations.studies.outcome import Journal, Outcome
from simulations.studies.plan import Cell, Plan
from simulations.studies.rows import divide
from simulations.workers import Workers, default_workers

Told = Callable[[Outcome, int, int], None]
"""Hears of an outcome, how many cells are done, and of how many."""


def carry_out(plan: Plan, folder: Path, told: Told, *, resume: bool = False, workers: int | None = None) -> Journal:
    """Simulate every cell of `plan` that `folder` does not hold yet; raises FedtuneError.

    `workers` processes of one thread share the cells, None for one a core; the figures do not depend on it.
    """
    journal = Journal.open(folder, plan, resume=resume)
    torch.set_num_threads(1)  # before any other use of torch: threads do not survive the fork
    count = default_workers(torch.device("cpu")) if workers is None else workers
    with Workers(Cells(plan, folder), count, singly) as answers:
        data = parse_recipe(plan.base, (*plan.settings, *plan.splits[plan.tuning_split])).recipe.data
        divide(data, plan.test_rows, folder / ROWS, tuning_rows=plan.tuning_rows)
        _simulate(answers, plan.tuning_cells(), journal, plan, told)
        rates = choose_rates(plan, journal.outcomes.values())
        _simulate(answers, plan.report_cells(rates), journal, plan, told)
    return journal


def _simulate(answers: Answers, cells: Iterable[Cell], journal: Journal, plan: Plan, told: Told) -> None:
    wanted = [cell for cell in cells if cell not in journal.outcomes]
    for outcome in _outcomes(answers, wanted):
        journal.add(outcome)
        told(outcome, len(journal.outcomes), plan.size())


def _outcomes(answers: Answers, cells: Sequence[Cell]) -> Iterator[Outcome]:
    jobs = [(cell.name, cell.model_dump_json().encode()) for cell in cells]
    for cell, answer in zip(cells, answers.answer_all(jobs), strict=True):
        try:
            yield Outcome.model_validate_json(answer)
        except ValidationError:
            raise RunError(f"{cell.name}: {answer.decode()}") from None
