"""What a client does for each kind of task: train, score, measure gradients; rows in, replies out."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from client.bench import Bench
from client.noised import noised_score
from client.refuse import refuse
from client.share import KeepsToItself, Share, personal_state
from fedtune.data.base import ClientData, Rows
from fedtune.errors import DataError
from fedtune.seeds import derive_seed
from fedtune.split.base import Share as SplitShare
from fedtune.state import State
from fedtune.training.base import Assignment, LocalResult, Score
from fedtune.training.gradient import mean_gradients
from fedtune.training.private_start import noised_gradients
from fedtune.wire import Evaluation, Message, Task, Update

DataOf = Callable[[str, Bench], ClientData]
"""The rows of a client by its name, encoded for the bench's model; raises DataError."""

Done = Callable[[], None]
"""What is called when the reply to a task was made."""


@dataclass(frozen=True, slots=True)
class Job:
    """A task and what it is done with."""

    data_of: DataOf
    bench: Bench
    task: Task
    own: KeepsToItself
    spend: Callable[[Task, str, int], Done]
    """Spends what the task costs a client with so many rows; raises Declined."""


@dataclass(frozen=True, slots=True)
class _Paid:
    """A client's share of a round, which its data set has paid for."""

    share: Share
    done: Done


def _train(job: Job, clients: list[str]) -> Iterator[Message]:
    shares = [_prepare(job, client) for client in clients]
    results = _train_each(job.bench, [paid.share.assignment for paid in shares if isinstance(paid, _Paid)])
    for client, paid in zip(clients, shares, strict=True):
        if isinstance(paid, _Paid):
            yield _send(job, client, paid, next(results))
        else:
            yield refuse(job.task, client, paid)


def _prepare(job: Job, client: str) -> _Paid | Exception:
    try:
        rows = job.data_of(client, job.bench).train
        share = Share.of(job.bench, job.task, client, rows, job.own)
        return _Paid(share, job.spend(job.task, client, len(rows)))
    except Exception as error:
        return error


def _send(job: Job, client: str, paid: _Paid, outcome: LocalResult | Exception) -> Message:
    if isinstance(outcome, Exception):
        return refuse(job.task, client, outcome)
    try:
        update = paid.share.update(job.bench, job.task, outcome, job.own)
    except Exception as error:
        return refuse(job.task, client, error)
    paid.done()
    return update


def _train_each(bench: Bench, cohort: list[Assignment]) -> Iterator[LocalResult | Exception]:
    """One outcome a client, in order."""
    results = bench.step.train(cohort)
    while True:
        try:
            yield next(results)
        except StopIteration:
            return
        except Exception as error:
            yield error


def _evaluate(job: Job, clients: list[str]) -> Iterator[Message]:
    bench, task = job.bench, job.task
    for client in clients:
        try:
            holdout = job.data_of(client, bench).holdout
            if holdout is None or not len(holdout):
                raise DataError("the client holds no rows for evaluation")
            state = personal_state(bench, task, client, job.own)
            done = job.spend(task, client, len(holdout))
            score = _score(bench, state, holdout, SplitShare(task.run, task.round, client))
        except Exception as error:
            yield refuse(task, client, error)
        else:
            done()
            yield Evaluation(task.run, task.round, client, task.base, score.examples, score.loss_sum, score.correct)


def _score(bench: Bench, state: State, rows: Rows, share: SplitShare) -> Score:
    """The score of a client's own rows: in the clear without privacy, with the recipe's noise under it."""
    privacy = bench.recipe.privacy
    if privacy.unit == "none":
        return bench.step.evaluate(state, rows, bench.shift, share)
    return noised_score(bench.resident, state, rows, bench.shift, noise_multiplier=privacy.metrics_noise)


def _gradients(job: Job, clients: list[str]) -> Iterator[Message]:
    bench, task = job.bench, job.task
    for client in clients:
        try:
            rows = job.data_of(client, bench).train
            done = job.spend(task, client, len(rows))
            gradients, examples = _measure(bench, client, rows)
        except Exception as error:
            yield refuse(task, client, error)
        else:
            done()
            yield Update(task.run, task.round, client, task.base, (), gradients, examples)


def _measure(bench: Bench, client: str, rows: Rows) -> tuple[State, int]:
    """The gradients of a client's rows and how many they are of; under privacy clipped, noised and counted as one."""
    if bench.recipe.privacy.unit != "none":
        return noised_gradients(bench.resident, rows), 1
    limit = bench.recipe.adapter.init_rows
    seed = derive_seed(bench.recipe.run.seed, "gradient", client=client)
    return mean_gradients(bench.resident, rows, limit=limit, seed=seed), min(limit, len(rows))


PERFORMERS: dict[str, Callable[[Job, list[str]], Iterator[Message]]] = {
    "train": _train,
    "evaluate": _evaluate,
    "gradient": _gradients,
}
