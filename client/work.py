"""Where tasks become replies: train, evaluate or measure gradients on local rows, and say no clearly."""

import logging
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby

from client.bench import Bench, NeedsFactors, set_up
from client.share import KeepsToItself, Share, personal_state
from fedtune.data.base import ClientData
from fedtune.errors import DataError, FedtuneError
from fedtune.runs.kept import Keep
from fedtune.seeds import derive_seed
from fedtune.training.base import Assignment, LocalResult
from fedtune.training.gradient import mean_gradients
from fedtune.wire import Evaluation, Message, Refusal, Task, Update, decode, encode

DataOf = Callable[[str, Bench], ClientData]
"""The rows of a client by its name, encoded for the bench's model; raises DataError."""

_log = logging.getLogger("fedtune.client")


class Workplace:
    """Answers tasks for one client or for many virtual ones, on one resident base model.

    Guarantees: a reply depends on its task and its client alone; nothing of a client's rows is in a refusal.
    """

    def __init__(
        self, data_of: DataOf, *, model: str | None = None, keep: Keep | None = None, max_rank: int | None = None
    ) -> None:
        self._data_of = data_of
        self._model = model
        self._own = KeepsToItself(keep, max_rank)
        self._bench: Bench | None = None
        self._last: tuple[bytes, Message] = (b"", Refusal("", 0, "", "", ""))
        self.trouble: FedtuneError | None = None
        """Why the last task came to nothing here: the model or the rows do not fit it; None where they do."""

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
            bench = self._bench_for(task)
            task = bench.hold(task)
        except Exception as error:
            self._note(error)
            yield from (_refuse(task, client, error) for client in clients)
            return
        yield from _PERFORMERS[task.kind](Job(self._rows_of, bench, task, self._own), clients)

    def _rows_of(self, client: str, bench: Bench) -> ClientData:
        try:
            data = self._data_of(client, bench)
        except Exception as error:
            self._note(error)
            raise
        self.trouble = None
        return data

    def _note(self, error: Exception) -> None:
        if isinstance(error, FedtuneError) and not isinstance(error, NeedsFactors):
            self.trouble = error

    def _read(self, raw: bytes) -> Message:
        """Decode, once for all clients that are handed the very same bytes."""
        if self._last[0] is not raw:
            self._last = (raw, decode(raw))
        return self._last[1]

    def _bench_for(self, task: Task) -> Bench:
        if self._bench is None or not self._bench.fits(task):
            self._bench = set_up(task, model=self._model)
        return self._bench


@dataclass(frozen=True, slots=True)
class Job:
    """A task and what it is done with."""

    data_of: DataOf
    bench: Bench
    task: Task
    own: KeepsToItself


def _train(job: Job, clients: list[str]) -> Iterator[Message]:
    shares = [_prepare(job, client) for client in clients]
    results = _train_each(job.bench, [share.assignment for share in shares if isinstance(share, Share)])
    for client, share in zip(clients, shares, strict=True):
        if isinstance(share, Share):
            yield _send(job, client, share, next(results))
        else:
            yield _refuse(job.task, client, share)


def _prepare(job: Job, client: str) -> Share | Exception:
    try:
        return Share.of(job.bench, job.task, client, job.data_of(client, job.bench).train, job.own)
    except Exception as error:
        return error


def _send(job: Job, client: str, share: Share, outcome: LocalResult | Exception) -> Message:
    if isinstance(outcome, Exception):
        return _refuse(job.task, client, outcome)
    try:
        return share.update(job.bench, job.task, outcome, job.own)
    except Exception as error:
        return _refuse(job.task, client, error)


def _train_each(bench: Bench, cohort: list[Assignment]) -> Iterator[LocalResult | Exception]:
    """One outcome a client; results come in order, so the client after the last good one is the one that failed."""
    while cohort:
        done = 0
        try:
            for result in bench.step.train(cohort):
                done += 1
                yield result
            return
        except Exception as error:
            done += 1
            yield error
        cohort = cohort[done:]


def _evaluate(job: Job, clients: list[str]) -> Iterator[Message]:
    bench, task = job.bench, job.task
    for client in clients:
        try:
            holdout = job.data_of(client, bench).holdout
            if holdout is None or not len(holdout):
                raise DataError("the client holds no rows for evaluation")
            score = bench.step.evaluate(personal_state(bench, task, client, job.own), holdout, bench.shift)
        except Exception as error:
            yield _refuse(task, client, error)
        else:
            yield Evaluation(task.run, task.round, client, task.base, score.examples, score.loss_sum, score.correct)


def _gradients(job: Job, clients: list[str]) -> Iterator[Message]:
    bench, task = job.bench, job.task
    limit = bench.recipe.adapter.init_rows
    for client in clients:
        try:
            rows = job.data_of(client, bench).train
            seed = derive_seed(bench.recipe.run.seed, "gradient", client=client)
            gradients = mean_gradients(bench.resident, rows, limit=limit, seed=seed)
        except Exception as error:
            yield _refuse(task, client, error)
        else:
            yield Update(task.run, task.round, client, task.base, (), gradients, min(limit, len(rows)))


_PERFORMERS: dict[str, Callable[[Job, list[str]], Iterator[Message]]] = {
    "train": _train,
    "evaluate": _evaluate,
    "gradient": _gradients,
}

# What a coordinator is told of a failure: never the error's own words, which may quote rows, labels or paths.
_TOLD: tuple[tuple[type[Exception], str, str], ...] = (
    (NeedsFactors, "needs-factors", "the client does not hold the frozen factors; send them with the task"),
    (DataError, "no-data", "the client's rows do not fit this task; its own log says why"),
    (FedtuneError, "", "the client cannot do this task; its own log says why"),
    (Exception, "failed", "the client failed while it worked; its own log says why"),
)


def _refuse(task: Task, client: str, error: Exception) -> Refusal:
    _, reason, message = next(row for row in _TOLD if isinstance(error, row[0]))
    if not isinstance(error, NeedsFactors):
        expected = isinstance(error, FedtuneError)
        _log.warning("%s, round %d: %s", client, task.round, error, exc_info=None if expected else error)
    own_reason = error.reason if isinstance(error, FedtuneError) else "failed"
    return Refusal(task.run, task.round, client, reason or own_reason, message)
