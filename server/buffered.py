"""Asynchronous rounds: clients work at their own pace, and each buffer full of updates makes a new model.

FedBuff (arXiv 2106.06639, algorithm 1): the coordinator keeps `federation.concurrency` clients at work. An update is
the difference to the model that its client was sent; where s newer ones have come since, it counts s(τ) =
(1 + s)^-`staleness_exponent`. With `federation.buffer` updates the newest model takes the step Σ nₖ·s(τₖ)·δₖ / Σ nₖ,
nₖ being the weights of synchronous rounds (the paper's are all one), and a server optimiser, if any, acts on that.
"""

import sys
from collections import deque
from collections.abc import Sequence
from dataclasses import replace

from fedtune.aggregation import Aggregator, Frame, Global, make_aggregator
from fedtune.aggregation.weights import weigh
from fedtune.compression import make_pipeline
from fedtune.compression.feedback import feedback_of
from fedtune.recipe import AggregationSection, FederationSection, Recipe
from fedtune.runs.record import ClientRecord
from fedtune.wire import Task
from server.copies import Copies
from server.exchange import Exchange, Reply
from server.expected import Expectation
from server.flights import Flight, Flights
from server.intake import Intake
from server.listener import Listener
from server.roster import Roster
from server.round import RoundOutcome
from server.select import select
from server.tasking import Tasking
from server.under_way import UnderWay

TOO_STALE = "too-stale"
"""The outcome of an update that missed more than `federation.max_staleness` rounds."""


def share_of(staleness: int, section: FederationSection) -> float:
    """How much of an update counts that missed so many rounds: s(τ)."""
    return float((1 + staleness) ** -section.staleness_exponent)


class BufferedRounds:
    """The asynchronous rounds of one run.

    Guarantees: a client has one task at a time and counts at most once in a round; who has ended its task is not given
    another before the next model is made. With equal speeds and everybody at work, rounds are the synchronous ones.
    """

    def __init__(
        self, recipe: Recipe, exchange: Exchange, roster: Roster, tasking: Tasking, listener: Listener, frame: Frame
    ) -> None:
        self._recipe, self._frame = recipe, frame
        self._exchange, self._roster, self._tasking, self._listener = exchange, roster, tasking, listener
        self._pipeline = make_pipeline(recipe.compression)
        scheme, lossless = recipe.aggregation.scheme, self._pipeline.lossless
        self._copied = feedback_of(recipe.compression, scheme, lossless=lossless) == "ef21"
        self._flights = Flights(exchange, deadline_s=recipe.federation.deadline_s)
        self._tasks: dict[int, Task] = {}
        """By round, as long as a client works on one."""

    def run(self, round_: int, world: Global, there: Sequence[str]) -> RoundOutcome:
        """From `world` to the next model: until the buffer is full, or nobody is at work and nobody can be asked.

        `there`: the clients that are connected as the round begins.
        """
        section = self._recipe.federation
        self._tasks[round_] = self._tasking.task("train", round_, world)
        aggregator = make_aggregator(self._recipe.aggregation, self._frame)
        aggregator.begin(world, round_)
        copies = Copies(world) if self._copied else None
        idle = self._idle(round_, there)
        self._listener.asked(round_, section.buffer, "train")
        records: list[ClientRecord] = []
        accepted = 0
        self._fill(round_, idle)
        while accepted < section.buffer and (ended := self._flights.next()):
            record = self._take(round_, *ended, aggregator, copies)
            if record is not None:
                records.append(record)
                accepted += record.outcome == "ok"
                self._listener.replied(record, "train")
            if accepted < section.buffer:
                self._fill(round_, idle)
        at_work = {flight.round for flight in self._flights.under_way()}
        self._tasks = {key: task for key, task in self._tasks.items() if key in at_work}
        good = accepted >= section.min_replies
        return RoundOutcome(
            world=_next(aggregator, copies) if good else world,
            aggregated=good,
            clients=tuple(sorted(records, key=lambda record: record.client)),
            train_loss=_mean_loss(records, self._recipe.aggregation),
        )

    def under_way(self) -> UnderWay:
        """What a checkpoint has to keep between two rounds."""
        return UnderWay(self._flights.under_way(), {key: task.state for key, task in self._tasks.items()})

    def take_up(self, under_way: UnderWay, world: Global) -> None:
        """Have the clients at work that were when the checkpoint was written, each since it was sent its task.

        `world` is the checkpoint's: no copy of a client has moved since, for it moves where its update counts. That
        needs a virtual clock; over a link clients are asked anew.
        """
        clock = self._exchange.clock
        if (now := clock.virtual) is None:
            return
        for key, state in under_way.models.items():
            self._tasks[key] = self._tasking.task("train", key, Global(state, memory=world.memory))
        for flight in under_way.flights:
            clock.go_on_from(flight.sent)
            self._roster.refresh()
            payloads = self._tasking.payloads(self._tasks[flight.round], [flight.client])
            begun = replace(flight, bytes_down=flight.bytes_down - len(payloads[flight.client]))
            self._flights.send(payloads, flight.round, before=begun)
        clock.go_on_from(now)

    def close(self) -> None:
        """The run is over: nobody waits for those at work."""
        self._flights.drop()

    def _idle(self, round_: int, there: Sequence[str]) -> deque[str]:
        """Whom the round may ask, in the order of its draw."""
        busy = {flight.client for flight in self._flights.under_way()}
        drawn = select(self._recipe.federation, list(there), seed=self._recipe.run.seed, round_=round_)
        return deque(client for client in drawn if client not in busy)

    def _fill(self, round_: int, idle: deque[str]) -> None:
        """Have as many at work as there should be, of those that are still there."""
        room = (self._recipe.federation.concurrency or sys.maxsize) - len(self._flights)
        if not idle or room <= 0:
            return
        there = set(self._roster.refresh())
        chosen: list[str] = []
        while idle and len(chosen) < room:
            client = idle.popleft()
            if client in there:
                chosen.append(client)
        if chosen:
            self._flights.send(self._tasking.payloads(self._tasks[round_], chosen), round_)

    def _take(
        self, round_: int, flight: Flight, reply: Reply, aggregator: Aggregator, copies: Copies | None
    ) -> ClientRecord | None:
        """The record of a flight that has ended; None where the client was asked again with what it lacked."""
        section, staleness = self._recipe.federation, round_ - flight.round
        if not reply.failure and section.max_staleness and staleness > section.max_staleness:
            detail = f"the update missed {staleness} rounds, more than federation.max_staleness"
            reply = replace(reply, failure=TOO_STALE, detail=detail)
        task = self._tasks[flight.round]
        intake = Intake(
            task,
            Expectation(self._recipe, self._frame, self._tasking, flight.round),
            aggregator,
            self._pipeline,
            self._recipe.aggregation,
            seed=self._recipe.run.seed,
            copies=copies,
            share=share_of(staleness, section),
        )
        record = intake.take(reply, bytes_down=flight.bytes_down)
        self._tasking.heard(flight.client, record.outcome, record.rank)
        if record.outcome == "needs-factors" and not flight.bytes_up and flight.client in self._roster.refresh():
            before = replace(flight, bytes_up=record.bytes_up)
            self._flights.send(self._tasking.payloads(task, [flight.client]), flight.round, before=before)
            return None
        self._exchange.bytes_down += flight.bytes_down
        return record.model_copy(update={"staleness": staleness, "bytes_up": flight.bytes_up + record.bytes_up})


def _next(aggregator: Aggregator, copies: Copies | None) -> Global:
    """The next model, with the copies of those whose updates counted."""
    return copies.after(aggregator.finish()) if copies else aggregator.finish()


def _mean_loss(records: Sequence[ClientRecord], section: AggregationSection) -> float | None:
    """The mean training loss of the updates that counted, weighted as they were before their age was."""
    known = [(weigh(r.examples, section), r.loss) for r in records if r.outcome == "ok" and r.loss is not None]
    total = sum(weight for weight, _ in known)
    return sum(weight * loss for weight, loss in known) / total if total else None
