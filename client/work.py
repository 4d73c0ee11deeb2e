"""Where tasks become replies: train, evaluate or measure gradients on local rows, and say no clearly."""

import logging
from collections.abc import Callable, Iterator, Sequence
from itertools import groupby

from client.bench import Bench, NeedsFactors, set_up
from fedtune.data.base import ClientData
from fedtune.errors import DataError, FedtuneError
from fedtune.seeds import derive_seed
from fedtune.state import subtract
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

    def __init__(self, data_of: DataOf, *, model: str | None = None) -> None:
        self._data_of = data_of
        self._model = model
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
            bench.hold_factors(task)
        except Exception as error:
            self._note(error)
            yield from (_refuse(task, client, error) for client in clients)
            return
        yield from _PERFORMERS[task.kind](self._rows_of, bench, task, clients)

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


def _train(data_of: DataOf, bench: Bench, task: Task, clients: list[str]) -> Iterator[Message]:
    prepared = [_assign(data_of, bench, task, client) for client in clients]
    results = _train_each(bench, [a for a in prepared if isinstance(a, Assignment)])
    for client, assignment in zip(clients, prepared, strict=True):
        outcome = next(results) if isinstance(assignment, Assignment) else assignment
        yield _update(bench, task, outcome) if isinstance(outcome, LocalResult) else _refuse(task, client, outcome)


def _assign(data_of: DataOf, bench: Bench, task: Task, client: str) -> Assignment | Exception:
    seed = derive_seed(bench.recipe.run.seed, "train", round_=task.round, client=client)
    try:
        return Assignment(client, task.round, task.state, data_of(client, bench).train, seed)
    except Exception as error:
        return error


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


def _update(bench: Bench, task: Task, result: LocalResult) -> Update:
    seed = derive_seed(bench.recipe.run.seed, "upload", round_=task.round, client=result.client)
    return Update(
        run=task.run,
        round=task.round,
        client=result.client,
        base=task.base,
        stages=bench.pipeline.names,
        tensors=bench.pipeline.encode(subtract(result.state, task.state), seed=seed),
        examples=result.examples,
        metrics=result.metrics,
    )


def _evaluate(data_of: DataOf, bench: Bench, task: Task, clients: list[str]) -> Iterator[Message]:
    for client in clients:
        try:
            holdout = data_of(client, bench).holdout
            if holdout is None or not len(holdout):
                raise DataError("the client holds no rows for evaluation")
            score = bench.step.evaluate(task.state, holdout)
        except Exception as error:
            yield _refuse(task, client, error)
        else:
            yield Evaluation(task.run, task.round, client, task.base, score.examples, score.loss_sum, score.correct)


def _gradients(data_of: DataOf, bench: Bench, task: Task, clients: list[str]) -> Iterator[Message]:
    limit = bench.recipe.adapter.init_rows
    for client in clients:
        try:
            rows = data_of(client, bench).train
            seed = derive_seed(bench.recipe.run.seed, "gradient", client=client)
            gradients = mean_gradients(bench.resident, rows, limit=limit, seed=seed)
        except Exception as error:
            yield _refuse(task, client, error)
        else:
            yield Update(task.run, task.round, client, task.base, (), gradients, min(limit, len(rows)))


_PERFORMERS: dict[str, Callable[[DataOf, Bench, Task, list[str]], Iterator[Message]]] = {
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
