"""Where tasks become replies: what may not be done is refused clearly, what may is paid for and then performed."""

from collections.abc import Iterator, Sequence
from itertools import groupby

from client.bench import Bench, NeedsFactors, read_recipe, set_up
from client.heads import Heads
from client.perform import PERFORMERS, DataOf, Done, Job
from client.policy.charge import check_covered
from client.policy.declined import Declined
from client.policy.guard import Guard
from client.policy.sound import check_sound
from client.refuse import refuse
from client.share import KeepsToItself
from fedtune.cohort.room import USUAL, Room
from fedtune.data.base import ClientData
from fedtune.errors import FedtuneError, LedgerBroken
from fedtune.privacy.plan import plan_of
from fedtune.runs.kept import Keep
from fedtune.split.base import OpenBody
from fedtune.wire import Message, Refusal, Task, decode, encode


class Workplace:
    """Answers tasks for one client or for many virtual ones, on one resident base model.

    Guarantees: a reply depends on its task and its client alone (under privacy: and on fresh noise); nothing of a
    client's rows is in a refusal. A recipe that breaks a rule of recipes is refused, whoever read it before. Under
    privacy nothing leaves that no noise covers, and the coordinator's ledger is followed before anything is begun. With
    a guard, what a task spends is on the disk before it is worked on.

    Args:
        guard: the policy and the budget book of the data set; None for virtual clients, who own none.
        heads: where the heads of coordinators' ledgers are kept; in memory unless it is given.
        open_body: where the body of a split model is had from; None where there is none.
        room: for what is kept of rows between passes.
    """

    def __init__(
        self,
        data_of: DataOf,
        *,
        model: str | None = None,
        keep: Keep | None = None,
        max_rank: int | None = None,
        guard: Guard | None = None,
        heads: Heads | None = None,
        open_body: OpenBody | None = None,
        room: Room = USUAL,
    ) -> None:
        self._data_of = data_of
        self._model = model
        self._own = KeepsToItself(keep, max_rank)
        self._guard = guard
        self._heads = heads or Heads(None)
        self._open_body, self._room = open_body, room
        self._bench: Bench | None = None
        self._last: tuple[bytes, Message] = (b"", Refusal("", 0, "", "", ""))
        self.trouble: FedtuneError | None = None
        """Why the last task came to nothing here: the model or the rows do not fit it; None where they do."""
        self.declined: Declined | None = None
        """Why the data owner's policy or budget did not allow the last task; None where they did."""

    def answer(self, client: str, task: bytes) -> bytes:
        """The reply of one client."""
        return next(self.answer_all([(client, task)]))

    def answer_all(self, jobs: Sequence[tuple[str, bytes]]) -> Iterator[bytes]:
        """The replies of several clients, in order; clients with the same task share one pass of decoding."""
        for raw, group in groupby(jobs, key=lambda job: job[1]):
            for reply in self._answer_group(raw, [client for client, _ in group]):
                yield encode(reply)

    def _answer_group(self, raw: bytes, clients: list[str]) -> Iterator[Message]:
        task = self._read(raw)
        if not isinstance(task, Task):
            raise TypeError(f"a client was sent a {type(task).__name__}, not a task")
        try:
            self._consider(task, clients)
            bench = self._bench_for(task)
            task = bench.hold(task)
        except Exception as error:
            self._note(error)
            yield from (refuse(task, client, error) for client in clients)
            return
        yield from PERFORMERS[task.kind](Job(self._rows_of, bench, task, self._own, self._reserve), clients)

    def _consider(self, task: Task, clients: list[str]) -> None:
        """Refuse what may not be asked, before anything is loaded for it."""
        recipe = read_recipe(task)
        check_sound(recipe)
        plan = plan_of(recipe)
        check_covered(task, plan)
        if self._guard is not None:
            self._guard.consider(task, recipe)
        if task.ledger is not None:
            for client in clients:
                self._heads.follow(task.run, client, task.ledger)
        elif plan is not None and self._guard is not None:
            raise LedgerBroken("the task comes without the coordinator's ledger, which under privacy must be shown")

    def _reserve(self, task: Task, client: str, rows: int) -> Done:
        """Spend what a task costs a client's data set."""
        if self._guard is None:
            self.declined = None
            return _nothing
        try:
            done = self._guard.reserve(task, read_recipe(task), client, rows=rows)
        except Exception as error:
            self._note(error)
            raise
        self.declined = None
        return done

    def _rows_of(self, client: str, bench: Bench) -> ClientData:
        try:
            data = self._data_of(client, bench)
        except Exception as error:
            self._note(error)
            raise
        self.trouble = None
        return data

    def _note(self, error: Exception) -> None:
        if isinstance(error, Declined):
            self.declined = error
        elif isinstance(error, FedtuneError) and not isinstance(error, NeedsFactors):
            self.trouble = error

    def _read(self, raw: bytes) -> Message:
        """Decode, once for all clients that are handed the very same bytes."""
        if self._last[0] is not raw:
            self._last = (raw, decode(raw))
        return self._last[1]

    def _bench_for(self, task: Task) -> Bench:
        if self._bench is None or not self._bench.fits(task):
            self._bench = set_up(task, model=self._model, open_body=self._open_body, room=self._room)
        return self._bench


def _nothing() -> None:
    """The end of a task that nobody pays for."""
