"""How long a simulation will take, said at its start: a trial pass, scaled by what all rounds have to do."""

import logging
from dataclasses import dataclass

from fedtune.cohort.room import Room
from fedtune.data.table import tables
from fedtune.privacy.plan import Plan, plan_of
from fedtune.recipe import Recipe
from fedtune.runs.words import seconds_text
from fedtune.training.device import choose_device
from fedtune.training.order import count_steps
from server.plan_schedule import Schedule, schedule_of
from simulations.groups import cores, group_size, handed_out
from simulations.names import client_name
from simulations.population import Population
from simulations.trial import Trial, trial

log = logging.getLogger(__name__)

LOOKED_AT = 64
"""Clients whose sizes stand for all."""


@dataclass(frozen=True, slots=True)
class Work:
    """What the rounds of a run that are left have to do."""

    rounds: int
    clients: float
    """That train in a round, or are asked to."""
    rows: float
    """That each of them passes over in a round."""
    different: float
    """Of these."""
    held: float
    """Rows of all clients, each counted once."""
    scored: float
    """Rows that the coordinator scores in all rounds."""
    scored_by_clients: float
    at_once: int = 1
    """Clients that are handed out at a time."""
    tokens: float = 1.0
    """Of a row, in the mean."""


def forecast(population: Population, processes: int, room: Room, *, done: int = 0) -> str | None:
    """About how long the rounds after `done` will take so many processes, for a person.

    Under virtual time, where devices decide who trains, it is the most that it will take. None where a pass cannot
    tell: on a GPU, which a fork cannot use; of a split model, whose body is elsewhere; in asynchronous rounds, where
    workers wait for the clock; and where the trial came to nothing. Raises nothing: whatever is wrong, the run itself
    says.
    """
    recipe = population.recipe
    cpu = choose_device(recipe.training.device).type == "cpu"
    if done >= recipe.federation.rounds or not cpu or recipe.federation.buffer or recipe.split.active:
        return None
    try:
        return _sentence(population, min(processes, cores()), room, done)
    except Exception as error:
        log.debug("nothing is said of how long the run will take: %s", error)
        return None


def _sentence(population: Population, busy: int, room: Room, done: int) -> str | None:
    recipe, work = population.recipe, work_of(population, done)
    a_step = recipe.training.batch_size * recipe.training.accumulate
    found = trial(population, work.at_once, a_step, room, processes=busy)
    if found is None:
        return None
    left = work.rounds
    rounds = f"{left}{' more' * bool(done)} round{'s' * (left > 1)}"
    again = "; said again after the first of them" if left > 1 and recipe.privacy.unit == "none" else ""
    seconds = seconds_of(work, found, busy)
    most = "at most " * recipe.simulation.active
    return f"{most}about {about(seconds)} for {rounds}, by a trial pass of {seconds_text(found.first_s)}{again}"


def about(seconds: float) -> str:
    """`5 s`, `40 s`, `4 min`, `2.5 h`: no more digits than such a guess has."""
    if seconds < 90:
        return f"{max(5, 5 * round(seconds / 5))} s"
    return f"{round(seconds / 60)} min" if seconds < 90 * 60 else f"{round(2 * seconds / 3600) / 2:g} h"


def seconds_of(work: Work, found: Trial, processes: int) -> float:
    """How long so many processes take for it, if each row takes what it took in the trial.

    What is kept of a row is computed once by every process that meets it: who works on which client is chance.
    """
    a_token = 1 / (found.rows * found.tokens)
    read = work.rounds * work.clients * work.rows
    visits = work.rounds * work.clients * work.different / max(work.held, 1.0)
    met: float = min(read, work.held * processes * (1.0 - (1.0 - 1.0 / processes) ** visits))
    training = read * found.again_s + met * (found.first_s - found.again_s)
    scores = work.scored + work.scored_by_clients / processes
    return a_token * work.tokens * (training / _side_by_side(work.at_once, processes) + scores * found.score_s)


def _side_by_side(clients: int, processes: int) -> float:
    """How many processes are busy while so many clients train, in the mean: they wait for the last group."""
    groups = -(-clients // group_size(clients, cores()))
    return groups / -(-groups // processes)


def work_of(population: Population, done: int = 0) -> Work:
    """The work of the rounds of a population's recipe after round `done`."""
    recipe = population.recipe
    plan, section = _plan(recipe), recipe.federation
    schedule = schedule_of(recipe, plan)
    clients = len(population.parts)
    sizes = [population.sizes(client_name(at)) for at in range(0, clients, max(1, clients // LOOKED_AT))]
    learning, holding = (sum(column) / len(sizes) for column in zip(*sizes, strict=True))
    rows = sum(_rows_of(recipe, plan, size) for size, _ in sizes) / len(sizes)
    test = tables(recipe.data, recipe.model, recipe.run.seed).test
    every = section.evaluate_every or section.rounds
    scorings = sum(1 for round_ in {0, section.rounds, *range(0, section.rounds, every)} if round_ > done or not done)
    asked = min(schedule.clients * (1 + section.over_select), float(clients))
    return Work(
        rounds=section.rounds - done,
        clients=asked,
        at_once=handed_out(recipe, asked),
        rows=rows,
        different=min(rows, learning),
        held=min(learning * clients, float(len(population.rows))),
        scored=float(scorings * (0 if test is None else len(test))),
        scored_by_clients=_scorings(schedule, done) * schedule.scored * holding,
        tokens=float(population.rows.lengths.mean()),
    )


def _scorings(schedule: Schedule, done: int) -> int:
    return sum(1 for round_ in schedule.evaluated if round_ > done or not done)


def _rows_of(recipe: Recipe, plan: Plan | None, rows: int) -> float:
    """How many rows a client that holds so many passes over in a round."""
    training = recipe.training
    if plan is not None and plan.unit == "example":
        return plan.steps * plan.sampling_rate * rows
    a_step = training.batch_size * training.accumulate
    return float(count_steps(rows, training) * min(a_step, rows) if training.steps else training.epochs * rows)


def _plan(recipe: Recipe) -> Plan | None:
    """The privacy plan, whose noise says nothing of time and need not be settled."""
    if recipe.privacy.unit == "none":
        return None
    return plan_of(recipe.model_copy(update={"privacy": recipe.privacy.model_copy(update={"noise_multiplier": 1.0})}))
