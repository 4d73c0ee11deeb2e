"""A trial pass: how long a few real rows take in this run's own local step, in a process of its own.

A fork, for what it loads, draws and keeps ends with it, and torch's threads are not started where workers are to be
forked.
"""

import json
import logging
import multiprocessing
import signal
import warnings
from collections.abc import Callable, Sequence
from contextlib import ExitStack, suppress
from dataclasses import asdict, dataclass, replace
from multiprocessing.connection import Connection
from time import perf_counter

import torch

from fedtune.cohort.budget import CPU_TOKENS
from fedtune.cohort.fits import fits
from fedtune.cohort.lane import Lane
from fedtune.cohort.packed import PackedPass, why_not_packed
from fedtune.cohort.room import USUAL, Room
from fedtune.data.rows import EncodedRows
from fedtune.errors import DataError
from fedtune.recipe import Recipe
from fedtune.training.base import Assignment, LocalStep
from fedtune.training.make import local_step, scoring_step
from fedtune.training.resident import Resident, resident
from simulations.groups import group_size, lanes
from simulations.names import client_name
from simulations.population import Population

PASS_S, WAIT_S, AT_ONCE = 1.0, 4.0, 8
"""How long one pass may take at most, so that the trial takes a second or two; when it is given up; how many try."""
SLOW_S, FEWEST = 0.2, 4
"""A row's forward pass that takes longer makes a model slow, of which less is tried; rows of one that is not."""
SCORING = 0.5
"""What a row's forward pass alone takes of its share in a larger pass forward and back, about."""
Clock = Callable[[], float]


@dataclass(frozen=True, slots=True)
class Trial:
    """What one pass has taken."""

    rows: int
    tokens: float
    """Of one of its rows, in the mean."""
    first_s: float
    """Forward and backward, of rows that were never seen."""
    again_s: float
    """The same rows again: what was kept of them is not computed."""
    score_s: float
    """The coordinator's forward pass over as many rows."""

    def pace(self) -> float:
        """Seconds of a token that was seen before."""
        return self.again_s / (self.rows * self.tokens)


def trial(
    population: Population, clients: int, rows: int, room: Room, *, processes: int, wait_s: float = WAIT_S
) -> Trial | None:
    """Time a pass of the first of so many clients that are handed out at a time, who take `rows` rows each in a step.

    `room` is for what is kept of rows. As many `processes` as will work do it at once, for they slow each other down,
    up to `AT_ONCE`. None where it came to nothing, whatever the reason, or takes longer than `wait_s`.
    """
    by = perf_counter() + wait_s
    with ExitStack() as stack:
        ends = [_fork(stack, population, clients, rows, room) for _ in range(min(processes, AT_ONCE))]
        found = sorted(filter(None, [_take(end, by - perf_counter()) for end in ends]), key=Trial.pace)
        return found[(len(found) - 1) // 2] if found else None


def _fork(stack: ExitStack, *asked: object) -> Connection:
    """Where a fork reports to, which ends with the stack."""
    ours, theirs = multiprocessing.Pipe(duplex=False)
    process = multiprocessing.get_context("fork").Process(target=_report, args=(*asked, theirs), daemon=True)
    stack.callback(ours.close)
    with theirs:
        process.start()
    stack.callback(process.join)
    stack.callback(process.kill)
    return ours


def _take(end: Connection, wait_s: float) -> Trial | None:
    try:
        return Trial(**json.loads(end.recv_bytes())) if end.poll(max(0.0, wait_s)) else None
    except (EOFError, OSError):
        return None


def short(recipe: Recipe) -> Recipe:
    """The recipe with local work of one step on all of a client's rows, in which the same is kept and shared."""
    training, rounds = recipe.training, recipe.federation.rounds * recipe.training.epochs
    update = {
        "training": training.model_copy(update={"epochs": 1, "steps": None if training.steps is None else 1}),
        "federation": recipe.federation.model_copy(update={"rounds": rounds}),
    }
    if recipe.privacy.unit == "example":
        drawn = {"sampling_rate": 1.0, "noise_multiplier": 1.0, "epsilon": None}
        update["privacy"] = recipe.privacy.model_copy(update=drawn)
    return recipe.model_copy(update=update)


def measure(
    home: Resident, shares: Sequence[EncodedRows], scored: EncodedRows, room: Room = USUAL, clock: Clock = perf_counter
) -> Trial:
    """Time a step of clients with these rows, and a score of as many of `scored`, on a resident of a `short` recipe."""
    step, scorer = local_step(home, room=replace(room, folder=None)), scoring_step(home)

    def score(rows: int) -> float:
        started = clock()
        scorer.evaluate(home.initial, scored.subset(range(min(rows, len(scored)))))
        return (clock() - started) * rows / min(rows, len(scored))

    # The first passes of a process are slower than all others, and another program may come between: so twice.
    one_row = max(min(score(1), score(1)), SCORING * PASS_S / CPU_TOKENS)
    slow, kept = one_row > SLOW_S, keeps(home, room)
    if not slow:
        _seconds(step, home, [shares[-1].subset([len(shares[-1]) - 1])], clock)
    shares = _first(shares, max(1 if slow else FEWEST, round(SCORING * PASS_S / one_row)))
    rows, tokens = sum(map(len, shares)), sum(int(one.lengths.sum()) for one in shares)
    first = _seconds(step, home, shares, clock)
    again = min(first, _seconds(step, home, shares, clock)) if kept or not slow else first
    return Trial(rows, tokens / rows, first if kept else again, again, one_row * rows if slow else score(rows))


def keeps(home: Resident, room: Room) -> bool:
    """Is something kept of rows from one pass to the next?"""
    if room.none or fits(home) or why_not_packed(home):
        return False
    return PackedPass(home, Lane(), room=Room(0)).unkept is None


def _seconds(step: LocalStep, home: Resident, shares: Sequence[EncodedRows], clock: Clock) -> float:
    cohort = [Assignment(f"trial-{number}", 1, home.initial, rows, number) for number, rows in enumerate(shares)]
    started = clock()
    for _ in step.train(cohort):
        pass
    return clock() - started


def _first(shares: Sequence[EncodedRows], rows: int) -> list[EncodedRows]:
    """The first so many rows of all shares."""
    taken = []
    for one in shares:
        if rows > 0:
            taken.append(one.subset(range(min(rows, len(one)))))
            rows -= len(one)
    return taken


def _shares(population: Population, clients: int, rows: int) -> list[EncodedRows]:
    """A step's rows of clients that train together, until a pass is full."""
    shares: list[EncodedRows] = []
    size = group_size(clients, lanes(population.recipe))
    for position in range(min(len(population.parts), 4 * size)):
        with suppress(DataError):  # it holds none
            held = population.data(client_name(position)).train
            if isinstance(held, EncodedRows) and len(held):
                shares.append(held.subset(range(min(rows, len(held)))))
        if len(shares) == size or sum(int(one.lengths.sum()) for one in shares) >= CPU_TOKENS:
            break
    return shares


def _report(population: Population, clients: int, rows: int, room: Room, end: Connection) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the keyboard's interrupt is the parent's affair
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    logging.disable()
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    with suppress(Exception):  # then there is nothing to say
        home = resident(short(population.recipe))
        found = measure(home, _shares(population, clients, rows), population.rows, room)
        end.send_bytes(json.dumps(asdict(found)).encode())
