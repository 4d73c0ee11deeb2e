"""The round engine: wait, start or resume, run rounds, evaluate, keep, stop; over any Flower Grid."""

import time
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import partial

from flwr.serverapp import Grid

from fedtune.aggregation import SCHEMES, Global
from fedtune.aggregation.frame import frame_of
from fedtune.aggregation.validate import norm_of
from fedtune.data.base import Rows
from fedtune.errors import RunError
from fedtune.recipe import Recipe
from fedtune.runs.folder import RunFolder
from fedtune.runs.log import RoundSinks, open_sinks
from fedtune.runs.record import RoundRecord, ScoreRecord
from fedtune.split.copies import BodyCopies, offering
from fedtune.state import digest, subtract
from fedtune.training.base import LocalStep
from fedtune.training.resident import Resident
from fedtune.wire.envelope import MAX_MESSAGE_BYTES
from server.best import is_better
from server.bookkeeping import open_books
from server.books import Books
from server.buffered import BufferedRounds
from server.clock import Moment
from server.download import Download
from server.evaluate import score_centrally, score_federated
from server.exchange import Exchange
from server.listener import Listener
from server.position import Position, find, keep
from server.private import ClientPrivacy, client_privacy
from server.private_past import read_past
from server.roster import Roster
from server.round import RoundOutcome, TrainingRound
from server.select import select_evaluators
from server.start import first_state, first_world
from server.tasking import Tasking
from server.under_way import UnderWay


@dataclass(frozen=True, slots=True)
class Setting:
    """What a run needs beside its grid."""

    recipe: Recipe
    folder: RunFolder
    home: Resident
    step: LocalStep
    test_rows: Rows | None
    copies: BodyCopies | None = None
    """Those of a body that the clients train."""


class Engine:
    """Runs the rounds of one recipe.

    Guarantees: every finished round is on disk before the next begins; a run that is killed and run again goes on
    from the last finished round and ends with the same state, for the same replies (under privacy: with fresh noise).
    What a round spends is in the ledger before anything is sent, and its end before the result is.
    """

    def __init__(self, grid: Grid, setting: Setting, listener: Listener) -> None:
        self._setting = setting
        self._listener = listener
        self._roster = Roster(grid)
        self._exchange = Exchange(grid, self._roster, max_bytes=MAX_MESSAGE_BYTES)
        self._clock = self._exchange.clock
        self._tasking: Tasking | None = None
        self._buffered: BufferedRounds | None = None
        self._frame = frame_of(setting.home.attached, setting.recipe.adapter)
        self._download = Download(setting.recipe)
        self._sinks = RoundSinks(())
        self._private: ClientPrivacy | None = None
        self._books = Books()
        self._link = link_of(grid)

    def run(self) -> Position:
        """Run what is left of the recipe's rounds and return where the run ended."""
        section = self._setting.recipe.federation
        position = self._find()
        self._sinks = open_sinks(self._setting.folder)
        try:
            names = self._first_there(position)
            self._listener.began(self._setting.folder.info.id, position.round if position else 0, section.rounds)
            if position is None:
                position = self._begin(names)
            else:
                self._resume(position)
            while position.round < section.rounds and not self._stops(position):
                after = self._advance(position)
                if after is None:
                    break
                position = after
            if self._buffered:
                self._buffered.close()
        finally:
            self._sinks.close()
        return position

    def close(self, position: Position, adapter_digest: str) -> None:
        """The adapter is written and the run over."""
        self._books.close(position.round, adapter_digest)

    def _find(self) -> Position | None:
        """Where the run stands, with its books open."""
        setting = self._setting
        position = find(setting.folder)
        fingerprint = setting.home.loaded.fingerprint
        self._books = open_books(
            setting.folder, model_fingerprint=fingerprint, link=self._link, begun=position is not None
        )
        self._books.meet(position.round if position else 0)
        self._private = client_privacy(setting.recipe, self._frame, partial(read_past, setting.folder.path))
        return position

    def _wait_for(self, count: int) -> list[str]:
        return self._roster.wait_for(count, told=lambda there: self._listener.connected(there, count))

    def _first_there(self, position: Position | None) -> list[str]:
        """Who is there to begin with; a virtual clock does not wait again for what it has waited for once."""
        if position is not None and position.clock_s is not None:
            self._clock.go_on_from(position.clock_s)
            return []
        return self._wait_for(self._setting.recipe.federation.min_clients)

    def _begin(self, names: list[str]) -> Position:
        setting, started = self._setting, self._clock.moment()
        setting.home.attached.load(setting.home.initial)
        self._initialise(names)
        self._set_up()
        world = first_world(setting.recipe, setting.home.attached.read())
        attached = setting.home.attached
        shared = attached.shared() if attached.shared_origin == "broadcast" else {}
        outcome = RoundOutcome(world=world, aggregated=False, clients=(), train_loss=None)
        return self._close(Position(round=-1, world=world, shared=shared), outcome, started, len(names))

    def _initialise(self, names: list[str]) -> None:
        """Bring the adapter into its first state; what clients give for it is charged."""
        setting = self._setting
        with self._books.charge("start", 0) as charge:
            if self._books.pays("start"):
                names = self._books.affordable("start", names)
                charge.reserve(names)
            tasking = self._make_tasking()
            first_state(setting.recipe, setting.home, self._exchange, tasking, names, self._listener)
            if self._books.pays("start"):
                charge.commit({}, digest(setting.home.attached.read()))

    def _make_tasking(self) -> Tasking:
        setting = self._setting
        return Tasking(setting.recipe, setting.folder.info.id, setting.home, self._frame, self._download, self._books)

    def _set_up(self) -> None:
        """What makes tasks, and asynchronous rounds where the recipe has them; the adapter has its first state."""
        recipe = self._setting.recipe
        tasking = self._tasking = self._make_tasking()
        if recipe.federation.buffer:
            self._buffered = BufferedRounds(recipe, self._exchange, self._roster, tasking, self._listener, self._frame)

    def _resume(self, position: Position) -> None:
        setting = self._setting
        if position.shared:
            setting.home.attached.load_shared(position.shared)
        self._set_up()
        self._tasks().recall(position.holders)
        if self._buffered:
            self._buffered.take_up(position.under_way, position.world)
        self._listener.noted(f"going on after round {position.round} of {setting.recipe.federation.rounds}")

    def _advance(self, position: Position) -> Position | None:
        """One more round; None where the budget of the run does not suffice for it."""
        started, round_ = self._clock.moment(), position.round + 1
        there = self._wait_for(self._setting.recipe.federation.min_replies)
        if self._buffered:
            return self._close(position, self._buffered.run(round_, position.world, there), started, len(there))
        names = self._books.affordable("train", there)
        if len(names) < len(there) and len(names) < self._setting.recipe.federation.min_replies:
            self._listener.noted(
                f"the budget is spent: round {round_} would cost more than privacy.epsilon, so the run ends here"
            )
            return None
        rounds = TrainingRound(
            self._setting.recipe,
            self._exchange,
            self._tasks(),
            self._listener,
            self._frame,
            self._download,
            self._private,
            self._setting.copies,
        )
        draw = rounds.draw(round_, names)
        with self._books.charge("train", round_) as charge:
            charge.reserve(draw.clients, draw)
            with offering(self._setting.copies, self._setting.folder.info.id, round_, position.world.state):
                outcome = rounds.run(round_, replace(position.world, clients=len(names)), draw)
            if outcome.aggregated:
                charge.commit({c.client: c.outcome for c in outcome.clients}, outcome.world.digest())
        return self._close(position, outcome, started, len(there))

    def _close(self, before: Position, outcome: RoundOutcome, started: Moment, online: int) -> Position:
        """Evaluate, record and keep one round."""
        round_ = before.round + 1
        central, federated = self._evaluate(round_, outcome.world) if self._evaluates(round_) else (None, None)
        down, up = self._other_bytes(outcome)
        # Under noise at the coordinator: whatever grows with the number of clients tells how many were drawn.
        hides = self._private is not None
        record = RoundRecord(
            round=round_,
            finished_at="" if hides else datetime.now(UTC).isoformat(timespec="milliseconds"),
            seconds=None if hides else time.monotonic() - started.wall,
            aggregated=outcome.aggregated,
            clients=outcome.clients,
            other_bytes_down=0 if hides else down,
            other_bytes_up=0 if hides else up,
            train_loss=outcome.train_loss,
            update_norm=norm_of(subtract(outcome.world.state, before.world.state)) if outcome.aggregated else None,
            product_error=outcome.product_error,
            central=central,
            federated=federated,
            state_digest=outcome.world.digest(),
            virtual=None if hides else self._clock.since(started, online),
        )
        record = record.model_copy(update={"best": is_better(record, before.best, self._setting.recipe.model.task)})
        after = self._standing(before.after(record, outcome.world, self._setting.recipe))
        keep(self._setting.folder, after, record)
        self._sinks.write(record)
        self._listener.finished(record)
        self._check(after)
        return after

    def _standing(self, position: Position) -> Position:
        """The position with what a virtual clock has to go on from, where one runs."""
        if self._clock.virtual is None:
            return position
        return replace(
            position,
            clock_s=self._clock.virtual,
            holders=self._tasks().holders(),
            under_way=self._buffered.under_way() if self._buffered else UnderWay(),
        )

    def _other_bytes(self, outcome: RoundOutcome) -> tuple[int, int]:
        """What went down and up since the last round was closed, beside the training that `outcome` records."""
        down, up = self._exchange.bytes_down, self._exchange.bytes_up
        self._exchange.bytes_down = self._exchange.bytes_up = 0
        return down - sum(c.bytes_down for c in outcome.clients), up - sum(c.bytes_up for c in outcome.clients)

    def _evaluates(self, round_: int) -> bool:
        section = self._setting.recipe.federation
        every = section.evaluate_every
        return round_ in (0, section.rounds) or bool(every and round_ % every == 0)

    def _evaluate(self, round_: int, world: Global) -> tuple[ScoreRecord | None, ScoreRecord | None]:
        setting, recipe = self._setting, self._setting.recipe
        personal = bool(SCHEMES[recipe.aggregation.scheme].keeps(tuple(self._frame.shapes)))
        central = None if personal else score_centrally(setting.step, world, setting.test_rows)
        if not recipe.data.holdout_fraction or not _may_score(recipe):
            return central, None
        names = select_evaluators(recipe.federation, self._roster.refresh(), seed=recipe.run.seed, round_=round_)
        return central, self._score_federated(round_, world, self._books.affordable("evaluate", names))

    def _score_federated(self, round_: int, world: Global, names: list[str]) -> ScoreRecord | None:
        """The clients' own score of a state; what it costs them is charged. None where nobody can be asked."""
        if not names:
            return None
        with self._books.charge("evaluate", round_) as charge:
            charge.reserve(names)
            tasking = self._tasks()
            task = tasking.task("evaluate", round_, world)
            with offering(self._setting.copies, task.run, round_, world.state):
                score = score_federated(
                    self._exchange,
                    task,
                    names,
                    tasking,
                    deadline_s=self._setting.recipe.federation.deadline_s,
                    listener=self._listener,
                )
            charge.commit({}, world.digest())
        return score

    def _stops(self, position: Position) -> bool:
        patience = self._setting.recipe.federation.early_stop
        if patience and position.stale >= patience:
            self._listener.noted(f"stopped early: {position.stale} evaluations without a better one")
            return True
        return False

    def _check(self, position: Position) -> None:
        limit = self._setting.recipe.federation.max_failed_rounds
        if position.failed >= limit:
            raise RunError(
                f"{position.failed} rounds in a row had fewer than federation.min_replies good updates; "
                "see the outcomes in rounds.jsonl, then run again with --resume"
            )

    def _tasks(self) -> Tasking:
        if self._tasking is None:
            raise RunError("the run has not begun")
        return self._tasking


def link_of(grid: Grid) -> str:
    """What carries a grid's messages, as the ledger says it: `simulation`, `grpc` (our own link) or `flower`."""
    if getattr(grid, "virtual", False):
        return "simulation"
    return "grpc" if hasattr(grid, "address") else "flower"


def _may_score(recipe: Recipe) -> bool:
    """May clients be asked for the scores of their own rows? Under privacy only with noise that is paid for."""
    return recipe.privacy.unit == "none" or (recipe.privacy.unit == "example" and recipe.privacy.metrics == "noised")
